//! The cuts that were made of a log: what they have taken of what was appended before.
//!
//! A log is cut back to its durable offset, which never goes back. So of the cuts behind a point the first took the most,
//! and of those to the same offset the last is enough to know: however often a disk fails, this grows only with what is
//! made durable between.

/// Cuts by their number, which begins at 0.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// How many were made up to each offset to which the log was cut, and the offset; both ascend.
    steps: Vec<(usize, i64)>,
}

impl Cuts {
    /// How many cuts there were.
    pub(super) fn count(&self) -> usize {
        self.steps.last().map_or(0, |(count, _)| *count)
    }

    /// The log is cut back to `offset`.
    pub(super) fn push(&mut self, offset: i64) {
        let count = self.count() + 1;
        match self.steps.last_mut() {
            Some((last, same)) if *same == offset => *last = count,
            last => {
                assert!(last.is_none_or(|(_, before)| *before < offset), "a durable offset goes back");
                self.steps.push((count, offset));
            }
        }
    }

    /// Whether what ends at `next_offset`, and was appended after so many cuts, was taken by a later one.
    pub(super) fn have_taken(&self, next_offset: i64, count: usize) -> bool {
        let first = self.steps.partition_point(|(last, _)| *last <= count);
        self.steps.get(first).is_some_and(|(_, offset)| *offset < next_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_knows_what_a_list_of_all_cuts_knows(
            growth in prop::collection::vec(0i64..3, 0..12), next_offset in 0i64..20, after in 0usize..13,
        ) {
            let (mut cuts, mut list, mut offset) = (Cuts::default(), Vec::new(), 0);
            for more in growth {
                offset += more;
                cuts.push(offset);
                list.push(offset);
            }
            prop_assert_eq!(cuts.count(), list.len());
            let is_taken = list.iter().skip(after).any(|cut| *cut < next_offset);
            prop_assert_eq!(cuts.have_taken(next_offset, after), is_taken);
        }
    }

    #[test]
    fn a_disk_that_goes_on_failing_takes_no_memory() {
        let mut cuts = Cuts::default();
        (0..1000).for_each(|_| cuts.push(7));
        assert_eq!((cuts.count(), cuts.steps.len()), (1000, 1));
    }
}
