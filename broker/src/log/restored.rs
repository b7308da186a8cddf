//! A segment file as it would be with pieces of the journal put back, for who only looks.
//!
//! Invariant: reading it finds what reading the file would after [`super::restore()`]; nothing is written.

use super::restore::RestoredPiece;
use crate::disk::{File, Mapping};
use std::io;
use std::sync::Arc;

/// A segment file as it would be with pieces put back: it can be read, and nothing else.
#[derive(Debug)]
pub(super) struct Restored<'a> {
    pub(super) file: Option<Arc<dyn File>>,
    /// In order.
    pub(super) pieces: Vec<&'a RestoredPiece>,
}

impl File for Restored<'_> {
    fn size(&self) -> io::Result<u64> {
        let size = self.file.as_ref().map_or(Ok(0), |file| file.size())?;
        Ok(self.pieces.iter().map(|piece| piece_end(piece)).fold(size, u64::max))
    }

    fn read_at(&self, position: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        let left = usize::try_from(self.size()?.saturating_sub(position)).unwrap_or(usize::MAX);
        let (len, from) = (len.min(left), into.len());
        if let Some(file) = &self.file {
            file.read_at(position, len, into)?;
        }
        into.resize(from + len, 0);
        let end = position + len as u64;
        for piece in self.pieces.iter().filter(|piece| piece.position < end && piece_end(piece) > position) {
            let (start, until) = (piece.position.max(position), piece_end(piece).min(end));
            let range = |base: u64| (start - base) as usize..(until - base) as usize;
            if let Some(target) = into.get_mut(from..).and_then(|into| into.get_mut(range(position)))
                && let Some(source) = piece.bytes.get(range(piece.position))
            {
                target.copy_from_slice(source);
            }
        }
        Ok(len)
    }

    fn is_cached(&self, _: u64, _: usize) -> bool {
        false
    }

    fn write_at(&self, _: u64, _: [&[u8]; 2]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn map(&self) -> io::Result<Mapping> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn piece_end(piece: &RestoredPiece) -> u64 {
    piece.position + piece.bytes.len() as u64
}
