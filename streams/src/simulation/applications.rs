//! What the instances run, what is written to their inputs, and what may differ in their views.

use super::Random;
use crate::{
    Builder, Dump, Windows,
    codec::{Codec, I64, Json, Utf8, opt},
    store::Entry,
    topology::Topology,
};
use std::{collections::BTreeMap, time::Duration};

/// A record of an input.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) partition: i32,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) timestamp: i64,
}

/// A kind of application. All of them read the topic `in`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Application {
    /// Which records there are by a key of their own, behind a repartition topic.
    Collected,
    /// Which records there are by key and short window, of which many expire.
    Windowed,
    /// The last value by key, where a null deletes.
    Last,
    /// The input as a table: spellings of keys, nulls, what cannot be decoded.
    Table,
}

/// So many that some are written seldom: what overwrites them wrongly is seen.
const KEYS: u64 = 40;

type Ids = Json<Vec<i64>>;

fn collected(id: i64, mut ids: Vec<i64>) -> Vec<i64> {
    // In an order that does not depend on which came first.
    let at = ids.partition_point(|other| *other <= id);
    ids.insert(at, id);
    ids
}

impl Application {
    pub(super) fn chosen(random: &mut Random) -> Application {
        let all = [Application::Collected, Application::Windowed, Application::Last, Application::Table];
        all[random.index(all.len())]
    }

    pub(super) fn topology(self) -> Topology {
        let b = Builder::new("simulated");
        match self {
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
        }
        b.build().unwrap()
    }

    /// The record with this number.
    pub(super) fn record(self, id: i64, partitions: i32, random: &mut Random) -> Input {
        let number = random.below(KEYS);
        let partition = (number % partitions as u64) as i32;
        let mut value = Vec::new();
        I64.encode(&id, &mut value).unwrap();
        let (mut key, mut timestamp) = (format!("k{number}").into_bytes(), id);
        let mut value = Some(value);
        match self {
            Application::Collected => {}
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
        Input { partition, key: Some(key), value, timestamp }
    }

    /// Views as they can be compared: what was processed twice, if that may be, counts once.
    pub(super) fn comparable(self, dump: Dump, exact: bool) -> BTreeMap<String, Vec<String>> {
        let collects = matches!(self, Application::Collected | Application::Windowed);
        let row = |Entry { key, value, timestamp }: Entry| {
            let value = if collects {
                let mut ids = Ids::new().decode(&value).unwrap();
                if !exact {
                    ids.dedup();
                }
                format!("{ids:?}")
            } else {
                format!("{value:?}")
            };
            format!("{} {timestamp}: {value}", key.escape_ascii())
        };
        let rows = dump.into_iter().filter(|(_, rows)| !rows.is_empty());
        rows.map(|((store, task), rows)| (format!("{store} {task}"), rows.into_iter().map(row).collect()))
            .collect()
    }
}
