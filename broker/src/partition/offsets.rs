//! The offsets that bound what a partition may show.
//!
//! Invariant: `log_start <= last_stable <= high_watermark <= log_end`. All changes go through [`Offsets::advance`], so
//! no caller can see the order broken. This module knows nothing of files, producers or clients.

/// The bounds of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// First offset that may be read.
    pub log_start: i64,
    /// First offset of an open transaction; the high watermark while there is none.
    pub last_stable: i64,
    /// First offset that is not yet safe to show.
    pub high_watermark: i64,
    /// Next offset to be assigned.
    pub log_end: i64,
}

/// One step of a partition's life.
#[derive(Clone, Copy, Debug)]
pub(super) enum Advance {
    /// Records were appended; this is the next offset to assign.
    Appended { log_end: i64 },
    /// Records below this offset are as safe as the flush policy asks.
    Safe { high_watermark: i64 },
    /// Retention or a delete request removed the records below this offset.
    Trimmed { log_start: i64 },
    /// A sync failed: the log ends here again, and what was visible beyond is gone.
    Cut { log_end: i64 },
}

impl Offsets {
    /// The bounds of a log that was just opened: all of it is safe.
    pub(super) fn opened(log_start: i64, log_end: i64) -> Self {
        let offsets = Self { log_start, last_stable: log_end, high_watermark: log_end, log_end };
        offsets.check();
        offsets
    }

    pub(super) fn advance(&mut self, step: Advance) {
        match step {
            Advance::Appended { log_end } => self.log_end = log_end,
            // A sync that ends late may report what a later one has passed: never go back.
            Advance::Safe { high_watermark } => self.high_watermark = self.high_watermark.max(high_watermark),
            Advance::Trimmed { log_start } => self.log_start = self.log_start.max(log_start),
            Advance::Cut { log_end } => {
                self.log_end = log_end;
                self.high_watermark = self.high_watermark.min(log_end);
                self.log_start = self.log_start.min(log_end);
            }
        }
        self.last_stable = self.high_watermark;
        self.check();
    }

    fn check(&self) {
        assert!(0 <= self.log_start && self.log_start <= self.last_stable, "{self:?}");
        assert!(self.last_stable <= self.high_watermark && self.high_watermark <= self.log_end, "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_sync_does_not_move_the_high_watermark_back_but_a_cut_does() {
        let mut offsets = Offsets::opened(0, 10);
        offsets.advance(Advance::Appended { log_end: 20 });
        offsets.advance(Advance::Safe { high_watermark: 15 });
        offsets.advance(Advance::Safe { high_watermark: 12 });
        assert_eq!((offsets.high_watermark, offsets.last_stable, offsets.log_end), (15, 15, 20));
        offsets.advance(Advance::Trimmed { log_start: 13 });
        offsets.advance(Advance::Cut { log_end: 12 });
        assert_eq!(offsets, Offsets::opened(12, 12));
    }

    #[test]
    #[should_panic(expected = "high_watermark: 11")]
    fn nothing_beyond_the_log_end_can_be_safe() {
        Offsets::opened(0, 10).advance(Advance::Safe { high_watermark: 11 });
    }
}
