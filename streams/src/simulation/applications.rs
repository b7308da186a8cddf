//! What the instances run, what is written to their inputs, and what may differ in their views.

use super::{Random, composed::Composed};
use crate::{
    Builder, Dump, Repartition, Windows,
    codec::{Codec, I64, Json, Utf8, opt},
    store::Entry,
    test_driver::topics::Logged,
    topology::Topology,
};
use bytes::Bytes;
use std::{collections::BTreeMap, time::Duration};

/// Rows or records by where they are.
pub(super) type Comparable = BTreeMap<String, Vec<String>>;

/// A record of an input.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) topic: &'static str,
    pub(super) partition: i32,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) timestamp: i64,
}

/// Windows that are closed for what is later than the bound, and whose rows are kept to the end.
pub(super) fn short_windows() -> Windows {
    Windows::tumbling(SHORT).grace(Duration::from_millis(BOUND_MS as u64))
}

pub(super) const SHORT: Duration = Duration::from_millis(10);

/// Numbers without those of a row, each once.
pub(super) fn without_all(mut ids: Vec<i64>, row: &[i64]) -> Vec<i64> {
    for id in row {
        let at = ids.iter().position(|other| other == id).expect("what is subtracted was added");
        ids.remove(at);
    }
    ids
}

/// A kind of application.
#[derive(Debug, Clone)]
pub(super) enum Application {
    /// One put together at random.
    Composed(Composed),
    /// Which records there are by a key of their own, behind a repartition topic.
    Collected,
    /// Which records there are by key and short window, of which many expire.
    Windowed,
    /// The last value by key, where a null deletes.
    Last,
    /// The input as a table: spellings of keys, nulls, what cannot be decoded.
    Table,
    /// Which records there are by key and short window, behind a repartition topic that several tasks write: whatever
    /// comes later than the bound is missing.
    Gathered,
    /// The same behind a second topic.
    Chained,
    /// Which records find their row of a table, where both come through topics and the row is written a little before.
    Matched,
}

/// So many that some are written seldom: what overwrites them wrongly is seen.
const KEYS: u64 = 40;

/// How far event time may run ahead, in milliseconds.
pub(super) const BOUND_MS: i64 = 20;
/// Event time between two records of a [`Application::Matched`].
const MATCHED_MS: i64 = 8;
/// Records that belong together there; those that look up the row of the block before come at least so much later.
const BLOCK: i64 = 16;

pub(super) type Ids = Json<Vec<i64>>;

pub(super) fn collected(id: i64, mut ids: Vec<i64>) -> Vec<i64> {
    // In an order that does not depend on which came first.
    let at = ids.partition_point(|other| *other <= id);
    ids.insert(at, id);
    ids
}

/// Both lists in one, each number once.
pub(super) fn united(mut ids: Vec<i64>, more: Vec<i64>) -> Vec<i64> {
    ids.extend(more);
    ids.sort_unstable();
    ids.dedup();
    ids
}

impl Application {
    pub(super) fn chosen(random: &mut Random) -> Application {
        if random.one_in(2) {
            return Application::Composed(Composed::chosen(random));
        }
        let all = [
            Application::Collected,
            Application::Windowed,
            Application::Last,
            Application::Table,
            Application::Gathered,
            Application::Chained,
            Application::Matched,
        ];
        all[random.index(all.len())].clone()
    }

    /// Whether it shows in the end what was processed twice.
    pub(super) fn counts_repetitions(&self) -> bool {
        matches!(self, Application::Composed(composed) if composed.counts_repetitions())
    }

    /// Whether rows of a table move between groups of another.
    pub(super) fn moves_rows(&self) -> bool {
        matches!(self, Application::Composed(composed) if composed.moves_rows())
    }

    /// Whether what a writer may be ahead of its readers is looked at: a record makes one or two there.
    pub(super) fn bounds_leads(&self) -> bool {
        matches!(self, Application::Gathered | Application::Chained | Application::Matched)
    }

    /// Whether anything is missing if a record comes later than the bound.
    pub(super) fn is_timed(&self) -> bool {
        match self {
            Application::Composed(composed) => composed.is_timed(),
            Application::Gathered | Application::Chained | Application::Matched => true,
            _ => false,
        }
    }

    pub(super) fn topology(&self) -> Topology {
        let b = Builder::new("simulated");
        match self {
            Application::Composed(composed) => return composed.topology(),
            Application::Collected => {
                b.stream("in", (Utf8, I64))
                    .group_by("by-remainder", (I64, I64), |_, id| id % KEYS as i64)
                    .aggregate("ids", Ids::new(), Vec::new, |_, id, ids| collected(id, ids));
            }
            Application::Windowed => {
                let windows =
                    Windows::tumbling(Duration::from_millis(10)).retention(Duration::from_millis(100));
                b.stream("in", (Utf8, I64)).group_by_key().windowed_by(windows).aggregate(
                    "ids",
                    Ids::new(),
                    Vec::new,
                    |_, id, ids| collected(id, ids),
                );
            }
            Application::Last => {
                b.stream("in", (Utf8, opt(I64))).to_table("last", (Utf8, opt(I64)));
            }
            Application::Table => {
                b.table("in", (Json::<(String, i64)>::new(), I64));
            }
            Application::Gathered => {
                b.stream("in", (Utf8, I64))
                    .group_by("by-remainder", (I64, I64), |_, id| id % 8)
                    .windowed_by(short_windows())
                    .aggregate("ids", Ids::new(), Vec::new, |_, id, ids| collected(id, ids));
            }
            Application::Chained => {
                let first = b
                    .stream("in", (Utf8, I64))
                    .group_by("by-remainder", (I64, I64), |_, id| id % 8)
                    .windowed_by(short_windows())
                    .aggregate("first", Ids::new(), Vec::new, |_, id, ids| united(ids, vec![id]));
                first
                    .to_stream()
                    .flat_map_values(|ids| ids)
                    .group_by("by-half", (I64, Ids::new()), |key, _| key.key / 2)
                    // The time of a row may be later than that of the record behind it, by a window.
                    .windowed_by(
                        Windows::tumbling(SHORT).grace(Duration::from_millis(BOUND_MS as u64) + SHORT),
                    )
                    .aggregate("second", Ids::new(), Vec::new, |_, more, ids| united(ids, more));
            }
            Application::Matched => {
                let all = b.stream("in", (Utf8, I64));
                let rows = all
                    .filter(|_, id| id % BLOCK == 0)
                    .group_by("rows", (I64, I64), |_, id| id / BLOCK)
                    .aggregate("rows", Ids::new(), Vec::new, |_, id, ids| united(ids, vec![id]));
                all.filter(|_, id| id % BLOCK != 0)
                    .select_key(|_, id| id / BLOCK - 1)
                    .repartition(Repartition::named("others"), (I64, I64))
                    .join_table("found", &rows, |_, id, _| id)
                    .with_codecs((I64, I64))
                    .group_by_key()
                    .aggregate("ids", Ids::new(), Vec::new, |_, id, ids| collected(id, ids));
            }
        }
        b.build().unwrap()
    }

    /// The record with this number.
    pub(super) fn record(&self, id: i64, partitions: i32, random: &mut Random) -> Input {
        let number = random.below(KEYS);
        let partition = (number % partitions as u64) as i32;
        let mut value = Vec::new();
        I64.encode(&id, &mut value).unwrap();
        let (mut key, mut timestamp) = (format!("k{number}").into_bytes(), id);
        let mut value = Some(value);
        match self {
            Application::Composed(composed) => return composed.record(id, partitions, random),
            Application::Collected => {}
            Application::Gathered | Application::Chained => timestamp = id * 4,
            Application::Matched => timestamp = id * MATCHED_MS,
            // Most rows expire at some time, and keys come back in later windows.
            Application::Windowed => timestamp = id * 4 + random.below(15) as i64,
            Application::Last => value = value.filter(|_| !random.one_in(3)),
            Application::Table => {
                let space = if random.one_in(2) { " " } else { "" };
                key = format!("[\"k\",{space}{number}]").into_bytes();
                match random.below(8) {
                    0 | 1 => value = None,
                    2 => value = Some(b"no number".to_vec()),
                    3 => key = b"no key".to_vec(),
                    4 => timestamp = -1,
                    _ => {}
                }
            }
        }
        Input { topic: "in", partition, key: Some(key), value, timestamp }
    }

    /// Views as they can be compared: what was processed twice, if that may be, counts once.
    pub(super) fn comparable(&self, dump: Dump, exact: bool) -> Comparable {
        let row = |Entry { key, value, timestamp }: Entry| {
            let value = match Ids::new().decode(&value) {
                Ok(mut ids) => {
                    if !exact {
                        ids.dedup();
                    }
                    format!("{ids:?}")
                }
                Err(_) => format!("{value:?}"),
            };
            // When rows pass a group that they leave again depends on which record of their key comes first.
            let timestamp = if self.moves_rows() { 0 } else { timestamp };
            format!("{} {timestamp}: {value}", key.escape_ascii())
        };
        let rows = dump.into_iter().filter(|(_, rows)| !rows.is_empty());
        rows.map(|((store, task), rows)| (format!("{store} {task}"), rows.into_iter().map(row).collect()))
            .collect()
    }
}

/// What was written to a topic, as it can be compared.
pub(super) fn comparable_topic(written: Vec<(i32, Logged)>, exact: bool) -> Vec<String> {
    let text = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| bytes.escape_ascii().to_string());
    let mut records: Vec<String> = written
        .iter()
        .map(|(partition, record)| {
            let (key, value) = (text(&record.key), text(&record.value));
            format!("{partition} {key:?} {}: {value:?}", record.timestamp)
        })
        .collect();
    records.sort_unstable();
    if !exact {
        records.dedup();
    }
    records
}
