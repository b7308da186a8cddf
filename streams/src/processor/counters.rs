//! What tasks count.

use crate::{codec::CodecError, store::Dropped};

/// What has been counted since the task began. Counters only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records taken from source topics.
    pub records_in: u64,
    /// Records written to sinks and repartition topics.
    pub records_out: u64,
    /// Records dropped because an operator needs a key and there was none.
    pub null_keys: u64,
    /// Records dropped because an operator needs a value and there was none.
    pub null_values: u64,
    /// Windows that a record came too late for; one record can count once per window.
    pub late: u64,
    /// Records skipped because they could not be decoded.
    pub undecodable: u64,
    /// Records skipped because their timestamp is negative, or because none could be taken from them.
    pub negative_timestamps: u64,
    /// Failures of fallible operators for which something was left out.
    pub failed: u64,
    /// Records written to dead-letter topics; their failures are counted as such too.
    pub dead_letters: u64,
    /// Milliseconds for which progress control held back records that were there and not put aside: until others have
    /// come further, or until the readers of a repartition topic have processed more.
    pub held_ms: u64,
    /// Records put aside, since they were further ahead than the skew bound and in front of others that were not.
    pub put_aside: u64,
    /// Milliseconds for which records were put aside.
    pub aside_ms: u64,
}

impl Counters {
    /// Adds another task's counters.
    pub fn add(&mut self, other: &Counters) {
        self.records_in += other.records_in;
        self.records_out += other.records_out;
        self.null_keys += other.null_keys;
        self.null_values += other.null_values;
        self.late += other.late;
        self.undecodable += other.undecodable;
        self.negative_timestamps += other.negative_timestamps;
        self.failed += other.failed;
        self.dead_letters += other.dead_letters;
        self.held_ms += other.held_ms;
        self.put_aside += other.put_aside;
        self.aside_ms += other.aside_ms;
    }

    /// Counts a record that did not become part of a table; an error, if it could not be decoded.
    pub(crate) fn count(&mut self, dropped: Dropped) -> Result<(), CodecError> {
        match dropped {
            Dropped::NegativeTimestamp => self.negative_timestamps += 1,
            Dropped::NullKey => self.null_keys += 1,
            Dropped::Undecodable(error) => {
                self.undecodable += 1;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Kinds of records that have been dropped since `before` and never until then, each with what lets them pass.
    pub(crate) fn first_drops(&self, before: &Counters) -> impl Iterator<Item = &'static str> {
        let kinds = [
            (
                before.null_keys,
                self.null_keys,
                "records without a key, where one is needed (opt() around a codec admits them)",
            ),
            (
                before.null_values,
                self.null_values,
                "records without a value, where one is needed (opt() around a codec admits them)",
            ),
            (
                before.late,
                self.late,
                "records later than their window's grace, or of windows that are not kept any more (a longer grace admits them)",
            ),
            (before.undecodable, self.undecodable, "records that cannot be decoded"),
            (
                before.negative_timestamps,
                self.negative_timestamps,
                "records with a negative timestamp or none",
            ),
            (before.failed, self.failed, "records that an operator fails for"),
        ];
        kinds.into_iter().filter(|(before, now, _)| *before == 0 && *now > 0).map(|(_, _, kind)| kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_drop_is_told_once() {
        let none = Counters::default();
        let some = Counters { null_keys: 2, late: 1, ..none };
        let more = Counters { null_keys: 5, late: 1, undecodable: 1, ..none };
        assert_eq!(none.first_drops(&none).count(), 0);
        assert_eq!(some.first_drops(&none).count(), 2);
        assert_eq!(more.first_drops(&some).collect::<Vec<_>>(), ["records that cannot be decoded"]);
    }
}
