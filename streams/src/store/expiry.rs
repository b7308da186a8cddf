//! Rows by window start, for expiry by stream time.
//!
//! Invariant: it names every row that stands under a windowed key, once, and no row that has gone.

use super::slab::RowId;
use std::collections::{BTreeMap, BTreeSet};

/// When rows expire.
#[derive(Debug)]
pub(super) struct Expiry {
    retention_ms: i64,
    starts: BTreeMap<i64, BTreeSet<RowId>>,
}

impl Expiry {
    /// Rows expire when stream time is `retention_ms` behind their window's start.
    pub(super) fn new(retention_ms: i64) -> Expiry {
        Expiry { retention_ms, starts: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, start: i64, id: RowId) {
        let new = self.starts.entry(start).or_default().insert(id);
        debug_assert!(new, "a row is named once");
    }

    pub(super) fn remove(&mut self, start: i64, id: RowId) {
        if let Some(ids) = self.starts.get_mut(&start) {
            let named = ids.remove(&id);
            debug_assert!(named, "a row is named until it goes");
            if ids.is_empty() {
                self.starts.remove(&start);
            }
        }
    }

    /// The rows of the earliest window, if stream time has left it behind. They are named until they are removed.
    pub(super) fn first_expired(&self, stream_time: i64) -> Option<Vec<RowId>> {
        let limit = stream_time.saturating_sub(self.retention_ms);
        let (_, ids) = self.starts.first_key_value().filter(|(start, _)| **start <= limit)?;
        Some(ids.iter().copied().collect())
    }

    /// Number of rows named.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.starts.values().map(BTreeSet::len).sum()
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
                    let (start, id) = model.swap_remove(which % model.len());
                    expiry.remove(start, id);
                    rows.remove(id);
                }
                prop_assert_eq!(expiry.len(), model.len());
            }
            let mut expired = Vec::new();
            while let Some(ids) = expiry.first_expired(stream_time) {
                for id in ids {
                    let (start, _) = model.iter().copied().find(|(_, of)| *of == id).unwrap();
                    expiry.remove(start, id);
                    expired.push(id);
                }
            }
            expired.sort();
            let mut expected: Vec<RowId> =
                model.iter().filter(|(start, _)| *start <= stream_time - 20).map(|(_, id)| *id).collect();
            expected.sort();
            prop_assert_eq!(expired, expected);
        }
    }
}
