//! Record data on its way between log, lane and socket: whole batches, never looked into here.

use bytes::{Bytes, BytesMut};
use std::any::Any;
use std::sync::Arc;

/// Bytes of a file that are read only when they are sent, by a transport that knows what `file` is. It keeps the file
/// open.
#[derive(Clone, Debug)]
pub struct Region {
    /// The file, of a type that maker and transport have agreed on.
    pub file: Arc<dyn Any + Send + Sync>,
    /// Where it begins, in bytes from the start of the file.
    pub position: u64,
    /// Its length in bytes.
    pub len: usize,
}

/// A part of record data, or of a frame.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes in a file.
    Region(Region),
}

impl Piece {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Region(region) => region.len,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, if they are in memory.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Region(_) => None,
        }
    }
}

/// Record batches as the ordered pieces they came in. Cloning shares the bytes.
///
/// Regions are only in what a broker hands its own transport: neither a decoded frame nor the answer of a lane in process
/// has any.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pieces: Vec<Piece>,
    len: usize,
}

impl Records {
    /// The pieces, in order; none is empty.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The pieces that are in memory, in order.
    pub fn slices(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter().filter_map(Piece::as_bytes)
    }

    /// Length of all pieces together in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All bytes in one buffer: shared if they are in one already, else copied.
    ///
    /// # Panics
    /// Regions are not in memory.
    pub fn to_bytes(&self) -> Bytes {
        assert!(self.slices().count() == self.pieces.len(), "a region is resolved by the transport alone");
        match self.pieces.as_slice() {
            [] => Bytes::new(),
            [Piece::Bytes(piece)] => piece.clone(),
            _ => {
                let mut joined = BytesMut::with_capacity(self.len);
                self.slices().for_each(|piece| joined.extend_from_slice(piece));
                joined.freeze()
            }
        }
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        Self::from(vec![bytes])
    }
}

impl From<Vec<Bytes>> for Records {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self::from_iter(pieces.into_iter().map(Piece::Bytes))
    }
}

impl From<Region> for Records {
    fn from(region: Region) -> Self {
        Self::from_iter([Piece::Region(region)])
    }
}

impl FromIterator<Piece> for Records {
    fn from_iter<I: IntoIterator<Item = Piece>>(pieces: I) -> Self {
        let pieces: Vec<Piece> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let len = pieces.iter().map(Piece::len).sum();
        Self { pieces, len }
    }
}

/// Equal bytes are equal records, however they are cut. A region equals none: what is in it is not known here.
impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        let all = |records: &Self| records.slices().count() == records.pieces.len();
        self.len == other.len
            && all(self)
            && all(other)
            && self.slices().flatten().eq(other.slices().flatten())
    }
}
