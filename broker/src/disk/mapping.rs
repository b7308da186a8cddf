//! Read-only mappings of sealed files, and the crate's only unsafe code.
//!
//! Invariant: a mapped file is neither cut nor written to in place while it is mapped: the files that are mapped
//! (indexes of sealed segments) are written once under another name, renamed, and later only removed, which leaves a
//! mapping intact. This module knows nothing of what the bytes mean.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::ops::Deref;

/// The bytes of a whole file.
#[derive(Debug)]
pub enum Mapping {
    /// Pages of the page cache.
    Mapped(memmap2::Mmap),
    /// A copy, where there is nothing to map.
    Copied(Vec<u8>),
}

impl Mapping {
    /// Maps all of `file`, which must not be cut or written to afterwards.
    pub(super) fn of(file: &fs::File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::Copied(Vec::new()));
        }
        // SAFETY: the file stays as it is while mapped (see the module's invariant), so the bytes behind the shared
        // reference do not change and no page of it lies beyond the end of the file. A foreign process that cuts
        // files in the data directory breaks this; the directory's lock keeps other brokers out.
        unsafe { memmap2::Mmap::map(file) }.map(Self::Mapped)
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Copied(bytes) => bytes,
        }
    }
}
