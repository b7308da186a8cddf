//! Rows by window start, for expiry by stream time.
//!
//! Invariant: it names every row that stands under a windowed key once, until its window expires. It is not told of rows
//! that go before: their names find nothing.

use super::slab::RowId;
use std::collections::BTreeMap;

/// When rows expire.
#[derive(Debug)]
pub(super) struct Expiry {
    retention_ms: i64,
    starts: BTreeMap<i64, Vec<RowId>>,
    /// Windows that start here or before have been expired.
    expired_to: i64,
}

impl Expiry {
    /// Rows expire when stream time is `retention_ms` behind their window's start.
    pub(super) fn new(retention_ms: i64) -> Expiry {
        Expiry { retention_ms, starts: BTreeMap::new(), expired_to: i64::MIN }
    }

    pub(super) fn insert(&mut self, start: i64, id: RowId) {
        self.starts.entry(start).or_default().push(id);
    }

    /// The rows of the earliest window, if stream time has left it behind. They are named no more.
    pub(super) fn take_expired(&mut self, stream_time: i64) -> Option<Vec<RowId>> {
        let limit = stream_time.saturating_sub(self.retention_ms);
        self.expired_to = self.expired_to.max(limit);
        let earliest = self.starts.first_entry().filter(|window| *window.key() <= limit)?;
        Some(earliest.remove())
    }

    /// Whether the rows of a window have been expired.
    pub(super) fn has_expired(&self, start: i64) -> bool {
        start <= self.expired_to
    }

    /// How often a row is named.
    #[cfg(test)]
    pub(super) fn names(&self, start: i64, id: RowId) -> usize {
        self.starts.get(&start).into_iter().flatten().filter(|named| **named == id).count()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::slab::Slab, *};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exactly_the_rows_left_behind_expire(
            steps in prop::collection::vec((0i64..50, any::<bool>(), 0usize..30), 0..100),
            stream_time in 0i64..80,
        ) {
            let (mut expiry, mut rows, mut model) = (Expiry::new(20), Slab::new(), Vec::new());
            for (start, insert, which) in steps {
                if insert || model.is_empty() {
                    let id = rows.insert(());
                    expiry.insert(start, id);
                    model.push((start, id));
                } else {
                    // The slot is used again, the name is not.
                    let (_, id) = model.swap_remove(which % model.len());
                    rows.remove(id);
                }
                for (start, id) in &model {
                    prop_assert_eq!(expiry.names(*start, *id), 1);
                }
            }
            let mut expired = Vec::new();
            while let Some(ids) = expiry.take_expired(stream_time) {
                expired.extend(ids.into_iter().filter(|id| rows.get(*id).is_some()));
            }
            expired.sort();
            let mut expected: Vec<RowId> =
                model.iter().filter(|(start, _)| *start <= stream_time - 20).map(|(_, id)| *id).collect();
            expected.sort();
            prop_assert_eq!(expired, expected);
        }
    }
}
