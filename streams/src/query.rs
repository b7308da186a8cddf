//! Reading tables: what a query is asked of, whoever moves it there.
//!
//! A query is a closure that runs on the thread that owns the task, between records, so it sees rows as of one
//! position. The runtime sends it there; the test driver calls it.

use crate::{
    codec::{Codec, CodecError, Data, SharedCodec, WINDOW_SUFFIX},
    dsl::Table,
    record::Windowed,
    store::{Entry, Lookup, Stores},
    task::{Task, TaskId},
};
use std::{
    collections::BTreeMap,
    ops::{Bound, RangeInclusive},
    sync::Arc,
};

/// One row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<V> {
    /// The value.
    pub value: V,
    /// Event time of the row in milliseconds.
    pub timestamp: i64,
}

/// Encoded bounds of a scan in key-byte order.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) from: Bound<Vec<u8>>,
    pub(crate) to: Bound<Vec<u8>>,
    /// What the keys begin with and how long they are: between two windows of `k` lie windows of `kangaroo`.
    exactly: Option<(Vec<u8>, usize)>,
}

impl Span {
    pub(crate) const ALL: Span = Span { from: Bound::Unbounded, to: Bound::Unbounded, exactly: None };

    /// Keys from `from` to `to`, both inclusive, in the order of their bytes.
    pub(crate) fn keys<K: Data>(codec: &SharedCodec<K>, from: &K, to: &K) -> Result<Span, CodecError> {
        let (mut low, mut high) = (Vec::new(), Vec::new());
        codec.encode(from, &mut low)?;
        codec.encode(to, &mut high)?;
        Ok(Span { from: Bound::Included(low), to: Bound::Included(high), exactly: None })
    }

    /// Windows of the key of `key` whose start lies in `starts`.
    pub(crate) fn windows<K: Data>(
        codec: &SharedCodec<Windowed<K>>,
        key: &Windowed<K>,
        starts: &RangeInclusive<i64>,
    ) -> Result<Span, CodecError> {
        let mut low = Vec::new();
        codec.encode(key, &mut low)?;
        let exactly = low.len();
        low.truncate(exactly.saturating_sub(WINDOW_SUFFIX));
        let mut high = low.clone();
        let exactly = Some((low.clone(), exactly));
        low.extend_from_slice(&starts.start().max(&0).to_be_bytes());
        low.extend_from_slice(&[0; 4]);
        high.extend_from_slice(&starts.end().max(&0).to_be_bytes());
        high.extend_from_slice(&[0xff; 4]);
        Ok(Span { from: Bound::Included(low), to: Bound::Included(high), exactly })
    }

    fn holds(&self, key: &[u8]) -> bool {
        let exactly = self.exactly.as_ref();
        exactly.is_none_or(|(prefix, length)| key.len() == *length && key.starts_with(prefix))
    }
}

/// Rows found, with their encoded keys.
pub(crate) type Scanned<K, V> = Vec<(Vec<u8>, K, Row<V>)>;

/// Every row of every store, in key-byte order, by store and task.
pub type Dump = BTreeMap<(Arc<str>, TaskId), Vec<Entry>>;

/// The row of a key in a task, if the task has the table and the row.
pub(crate) fn get<K: Data, V: Data>(
    task: &Task,
    table: &Table<K, V>,
    key: &K,
    encoded: &[u8],
) -> Option<Row<V>> {
    let mut found = None;
    let (lookup, stores) = task.lookup::<K, V>(table.view)?;
    lookup.with(stores, (key, encoded), &mut |row| {
        found = row.map(|(value, timestamp)| Row { value: value.clone(), timestamp });
    });
    found
}

/// The rows of a span in a task, in key-byte order, at most `limit`.
pub(crate) fn scan<K: Data, V: Data>(
    task: &Task,
    table: &Table<K, V>,
    span: &Span,
    limit: usize,
) -> Result<Scanned<K, V>, CodecError> {
    let Some((lookup, stores)) = task.lookup::<K, V>(table.view) else { return Ok(Vec::new()) };
    scan_lookup((lookup, stores), &table.codecs.0, span, limit)
}

fn scan_lookup<K: Data, V: Data>(
    (lookup, stores): (&dyn Lookup<K, V>, &Stores),
    keys: &Arc<dyn Codec<Item = K>>,
    span: &Span,
    limit: usize,
) -> Result<Scanned<K, V>, CodecError> {
    let mut rows = Vec::new();
    let mut failure = None;
    let (from, to) = (span.from.as_ref().map(Vec::as_slice), span.to.as_ref().map(Vec::as_slice));
    lookup.range(stores, (from, to), &mut |encoded, value, timestamp| {
        if rows.len() >= limit {
            return false;
        }
        if !span.holds(encoded) {
            return true;
        }
        match keys.decode(encoded) {
            Ok(key) => rows.push((encoded.to_vec(), key, Row { value: value.clone(), timestamp })),
            Err(error) => failure = Some(error),
        }
        failure.is_none()
    });
    failure.map_or(Ok(rows), Err)
}

/// Rows of several tasks as one list in key-byte order.
pub(crate) fn merge<K, V>(mut rows: Scanned<K, V>) -> Vec<(K, Row<V>)> {
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows.into_iter().map(|(_, key, row)| (key, row)).collect()
}
