//! The bytes of one simulated file: as programs see them, and as the platter has them.
//!
//! Invariant: the two differ only in sectors listed as dirty, in sectors that a failed sync lost, and in length.

use super::Random;
use std::collections::BTreeSet;

/// Bytes that are written or lost together.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors of `current` that a sync has to write.
    dirty: BTreeSet<usize>,
    /// How often a sync of the whole file system lost sectors: syncs by those who have the file open tell of it.
    losses: u64,
}

impl Inode {
    pub(super) fn len(&self) -> u64 {
        self.current.len() as u64
    }

    /// Up to `len` bytes from `position`; fewer at the end.
    pub(super) fn bytes(&self, position: u64, len: usize) -> &[u8] {
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(self.current.len());
        let end = start.saturating_add(len).min(self.current.len());
        self.current.get(start..end).unwrap_or_default()
    }

    #[expect(clippy::indexing_slicing, reason = "the vector was just made long enough")]
    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) {
        let start = position as usize;
        let end = start + bytes.len();
        let first_changed = start.min(self.current.len());
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[start..end].copy_from_slice(bytes);
        self.dirty.extend(first_changed / SECTOR..end.div_ceil(SECTOR));
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let len = len as usize;
        let first_changed = len.min(self.current.len());
        let last_changed = len.max(self.current.len());
        self.current.resize(len, 0);
        self.dirty.extend(first_changed / SECTOR..last_changed.div_ceil(SECTOR));
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(&self.current, &mut self.durable, sector);
        }
    }

    /// Flips a bit, in memory and on the platter.
    pub(super) fn flip(&mut self, byte: usize, bit: u8) {
        for bytes in [&mut self.current, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(byte) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// The pages are taken for clean though the device refused them: a later sync will not write them.
    pub(super) fn lose_unsynced(&mut self) {
        self.dirty.clear();
    }

    /// The same in a sync of all files, whose error does not say which.
    pub(super) fn lose_untold(&mut self) {
        self.losses += u64::from(!self.dirty.is_empty());
        self.lose_unsynced();
    }

    /// How often that lost something.
    pub(super) fn losses(&self) -> u64 {
        self.losses
    }

    pub(super) fn after_power_cut(mut self, random: &mut Random) -> Self {
        let (shorter, longer) = {
            let lens = [self.durable.len(), self.current.len()];
            (lens[0].min(lens[1]), lens[0].max(lens[1]))
        };
        let len = match random.up_to(2) {
            0 => self.durable.len(),
            1 => self.current.len(),
            _ => (shorter + random.up_to(longer - shorter)).next_multiple_of(SECTOR).min(longer),
        };
        self.durable.resize(len, 0);
        for sector in std::mem::take(&mut self.dirty) {
            if random.flip() {
                copy_sector(&self.current, &mut self.durable, sector);
            }
        }
        Self { current: self.durable.clone(), durable: self.durable, ..Self::default() }
    }
}

/// Copies what both have of a sector.
fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = sector * SECTOR;
    let end = (start + SECTOR).min(from.len()).min(to.len());
    if let (Some(from), Some(to)) = (from.get(start..end), to.get_mut(start..end)) {
        to.copy_from_slice(from);
    }
}
