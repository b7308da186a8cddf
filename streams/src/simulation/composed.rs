//! Applications put together at random from operators whose outcome is defined whatever the order of records that have
//! none: sources, any steps, and an end that keeps what has come.
//!
//! A value is the number of its input record, to which a step that makes another value of it adds a multiple of
//! [`COPY`]; a key is any number. Ends that cannot tell what was processed twice run in schedules only where nothing is.

use super::{
    Random,
    applications::{BOUND_MS, Ids, Input, SHORT, collected, short_windows, united, without_all},
};
use crate::{
    Builder, OnFailure, Stream, Table, Windows,
    codec::{Codec, I64},
    otherwise,
    topology::Topology,
    when,
};
use kappa_protocol::record::partition_for_key;
use std::time::Duration;

type Numbers = Stream<i64, i64>;

const CODECS: (I64, I64) = (I64, I64);
/// What makes another value of the same record.
const COPY: i64 = 1_000_000;
/// Event time between two records.
const STEP_MS: i64 = 4;
/// Records that belong together in a join: what looks up a row comes at least so much later.
const BLOCK: i64 = 16;
const KEYS: u64 = 30;
/// How long windows are kept that expire while a schedule runs.
const RETENTION: Duration = Duration::from_millis(90);

/// What is read as one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sources {
    One,
    /// Several topics by one source.
    Several,
    /// Two streams that are merged.
    Merged,
}

/// What is done to each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Filter,
    FilterNot,
    MapValues,
    Map,
    SelectKey,
    FlatMap,
    FlatMapValues,
    Branch,
    Fallible,
    Repartition,
}

const STEPS: [Step; 10] = [
    Step::Filter,
    Step::FilterNot,
    Step::MapValues,
    Step::Map,
    Step::SelectKey,
    Step::FlatMap,
    Step::FlatMapValues,
    Step::Branch,
    Step::Fallible,
    Step::Repartition,
];

/// What is kept in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Written to a topic, and nothing is kept.
    Written,
    Collected,
    /// By a function that changes the aggregate in place.
    Gathered,
    Counted,
    Reduced,
    /// The last value by key.
    Last,
    Tumbling,
    Hopping,
    /// A table's changes, collected by another key.
    Again,
    /// The same by window.
    AgainByWindow,
    /// A table's rows, each once, by another key.
    Regrouped,
    /// Where a table's rows are, each in one group, which changes.
    Moved,
    /// What finds its row in a table that is aggregated behind a topic.
    FoundBehind,
    /// The same in a table that is read from a topic.
    FoundInSource,
}

const ENDS: [End; 14] = [
    End::Written,
    End::Collected,
    End::Gathered,
    End::Counted,
    End::Reduced,
    End::Last,
    End::Tumbling,
    End::Hopping,
    End::Again,
    End::AgainByWindow,
    End::Regrouped,
    End::Moved,
    End::FoundBehind,
    End::FoundInSource,
];

/// One of these applications.
#[derive(Debug, Clone)]
pub(super) struct Composed {
    sources: Sources,
    steps: Vec<Step>,
    end: End,
    /// Whether the source takes event times from values.
    takes_times: bool,
    /// Whether groups are made by a key of their own.
    by_another: bool,
    /// Whether windows expire.
    expires: bool,
}

/// The number of the input record behind a value.
fn origin(value: i64) -> i64 {
    value % COPY
}

fn expiring(windows: Windows, expires: bool) -> Windows {
    if expires { windows.retention(RETENTION) } else { windows }
}

impl Step {
    fn changes_keys(self) -> bool {
        matches!(self, Step::Map | Step::SelectKey | Step::FlatMap)
    }

    fn changes_groups(self) -> bool {
        self.changes_keys() || self == Step::FlatMapValues
    }

    fn wire(self, numbers: &Numbers) -> Numbers {
        match self {
            Step::Filter => numbers.filter(|_, value| origin(*value) % 7 != 3),
            Step::FilterNot => numbers.filter_not(|key, _| key % 11 == 5),
            Step::MapValues => numbers.map_values(|value| value + COPY).with_codecs(CODECS),
            Step::Map => numbers.map(|key, value| (key % 9, value + 2 * COPY)).with_codecs(CODECS),
            Step::SelectKey => {
                numbers.select_key(|key, value| (key + origin(*value)) % 13).with_codecs(CODECS)
            }
            Step::FlatMap => {
                numbers.flat_map(|key, value| [(key, value), (key + 1, value + 4 * COPY)]).with_codecs(CODECS)
            }
            Step::FlatMapValues => {
                numbers.flat_map_values(|value| [value, value + 8 * COPY]).with_codecs(CODECS)
            }
            Step::Branch => {
                let [even, odd] = numbers.branch([when(|_, value| value % 2 == 0), otherwise()]);
                even.map_values(|value| value + 16 * COPY).with_codecs(CODECS).merge(&odd)
            }
            Step::Fallible => numbers
                .try_map_values(|value| if origin(value) % 17 == 4 { Err("unlucky") } else { Ok(value) })
                .with_codecs(CODECS),
            Step::Repartition => numbers.repartition("through", CODECS),
        }
    }
}

impl Composed {
    pub(super) fn chosen(random: &mut Random) -> Composed {
        let mut steps = Vec::new();
        for _ in 0..random.below(5) {
            let step = STEPS[random.index(STEPS.len())];
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
        let sources = [Sources::One, Sources::One, Sources::Several, Sources::Merged][random.index(4)];
        let mut end = ENDS[random.index(ENDS.len())];
        // The last value is defined only where all of a key have one order.
        if end == End::Last && (sources != Sources::One || steps.iter().any(|step| step.changes_keys())) {
            end = End::Collected;
        }
        Composed {
            sources,
            steps,
            end,
            takes_times: random.one_in(3),
            by_another: random.one_in(2),
            expires: random.one_in(2),
        }
    }

    /// Whether anything depends on event time.
    pub(super) fn is_timed(&self) -> bool {
        matches!(
            self.end,
            End::Tumbling | End::Hopping | End::AgainByWindow | End::FoundBehind | End::FoundInSource
        )
    }

    /// Whether it shows in the end what was processed twice.
    pub(super) fn counts_repetitions(&self) -> bool {
        matches!(self.end, End::Counted | End::Regrouped)
    }

    /// Whether rows of a table move between groups of another.
    pub(super) fn moves_rows(&self) -> bool {
        self.end == End::Moved
    }

    fn has_second_topic(&self) -> bool {
        self.sources != Sources::One
    }

    fn source(&self, b: &Builder, topics: &[&str]) -> Numbers {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect::<Vec<String>>();
        let source = b.source(topics, CODECS).on_failure(OnFailure::dead_letter("dead"));
        match self.takes_times {
            true => source.timestamps(|_, _, value| time_of(*value)).stream(),
            false => source.stream(),
        }
    }

    pub(super) fn topology(&self) -> Topology {
        let b = Builder::new("simulated");
        let mut numbers = match self.sources {
            Sources::One => self.source(&b, &["in"]),
            Sources::Several => self.source(&b, &["in", "more"]),
            Sources::Merged => self.source(&b, &["in"]).merge(&self.source(&b, &["more"])),
        };
        numbers = numbers.on_failure(OnFailure::dead_letter("dead"));
        for step in &self.steps {
            numbers = step.wire(&numbers);
        }
        self.wire_end(&b, &numbers);
        b.build().unwrap()
    }

    fn collected(&self, numbers: &Numbers) -> Table<i64, Vec<i64>> {
        // The rows are small: each change sends a whole row on.
        let grouped = match self.by_another || self.steps.iter().any(|step| step.changes_groups()) {
            true => numbers.group_by("by-another", CODECS, |_, value| origin(*value) % 50),
            false => numbers.group_by_key(),
        };
        grouped.aggregate("ids", Ids::new(), Vec::new, |_, id, ids| united(ids, vec![id]))
    }

    fn grouped(&self, numbers: &Numbers) -> crate::Grouped<i64, i64> {
        match self.by_another {
            true => numbers.group_by("by-another", CODECS, |_, value| origin(*value) % 8),
            false => numbers.group_by_key(),
        }
    }

    fn wire_end(&self, b: &Builder, numbers: &Numbers) {
        let tumbling = expiring(short_windows(), self.expires);
        match self.end {
            End::Written => numbers.to("out", CODECS),
            End::Collected => {
                self.grouped(numbers).aggregate("ids", Ids::new(), Vec::new, |_, id, ids| collected(id, ids));
            }
            End::Gathered => {
                self.grouped(numbers).aggregate_mut("ids", Ids::new(), Vec::new, |_, id, ids| {
                    *ids = collected(id, std::mem::take(ids));
                });
            }
            End::Counted => {
                self.grouped(numbers).count("count");
            }
            End::Reduced => {
                self.grouped(numbers).reduce("greatest", i64::max);
            }
            End::Last => {
                numbers.to_table("last", CODECS);
            }
            End::Tumbling => {
                let grouped = self.grouped(numbers).windowed_by(tumbling);
                grouped.aggregate("ids", Ids::new(), Vec::new, |_, id, ids| collected(id, ids));
            }
            End::Hopping => {
                let windows =
                    Windows::hopping(2 * SHORT, SHORT).grace(Duration::from_millis(BOUND_MS as u64));
                let grouped = self.grouped(numbers).windowed_by(expiring(windows, self.expires));
                grouped.aggregate_mut("ids", Ids::new(), Vec::new, |_, id, ids| {
                    *ids = collected(id, std::mem::take(ids));
                });
            }
            End::Again => {
                self.collected(numbers)
                    .to_stream()
                    .flat_map_values(Option::unwrap_or_default)
                    .group_by("again", CODECS, |key, _| key / 3)
                    .aggregate("again", Ids::new(), Vec::new, |_, id, ids| united(ids, vec![id]));
            }
            End::AgainByWindow => {
                let first = self.grouped(numbers).windowed_by(short_windows());
                let first = first.aggregate("ids", Ids::new(), Vec::new, |_, id, ids| united(ids, vec![id]));
                first
                    .to_stream()
                    .flat_map_values(Option::unwrap_or_default)
                    .group_by("again", CODECS, |key, _| key.key / 3)
                    // The time of a row may be later than that of the record behind it, by a window.
                    .windowed_by(
                        Windows::tumbling(SHORT).grace(Duration::from_millis(BOUND_MS as u64) + SHORT),
                    )
                    .aggregate("again", Ids::new(), Vec::new, |_, id, ids| united(ids, vec![id]));
            }
            End::Regrouped => {
                self.collected(numbers)
                    .filter(|key, _| key % 5 != 2)
                    .map_values(|_, ids| ids.clone())
                    .group_by("regrouped", (I64, Ids::new()), |key, ids| (key / 3, ids.clone()))
                    .aggregate(
                        "again",
                        Ids::new(),
                        Vec::new,
                        |_, row, ids| row.into_iter().fold(ids, |ids, id| collected(id, ids)),
                        |_, row, ids| without_all(ids, &row),
                    );
            }
            End::Moved => {
                self.collected(numbers)
                    .group_by("moved", CODECS, |key, ids| (ids.len() as i64 % 4, *key))
                    .aggregate(
                        "again",
                        Ids::new(),
                        Vec::new,
                        |_, key, keys| united(keys, vec![key]),
                        |_, key, keys| keys.into_iter().filter(|other| *other != key).collect(),
                    );
            }
            End::FoundBehind => {
                let rows = numbers
                    .filter(|_, value| origin(*value) % BLOCK < 2)
                    .group_by("rows", CODECS, |_, value| origin(*value) / BLOCK)
                    .aggregate("rows", Ids::new(), Vec::new, |_, id, ids| united(ids, vec![origin(id)]));
                self.wire_found(numbers, &rows);
            }
            End::FoundInSource => {
                let rows = b.source("rows", CODECS).on_failure(OnFailure::Skip);
                let rows = match self.takes_times {
                    true => rows.timestamps(|_, _, value| time_of(*value)).table(),
                    false => rows.table(),
                };
                self.wire_found(numbers, &rows.map_values(|key, row| (0..=row - key * BLOCK).collect()));
            }
        }
    }

    /// Records with the row of the block before, which is whole by then.
    fn wire_found(&self, numbers: &Numbers, rows: &Table<i64, Vec<i64>>) {
        let others = numbers
            .filter(|_, value| origin(*value) % BLOCK >= 2)
            .select_key(|_, value| origin(*value) / BLOCK - 1)
            .with_codecs(CODECS)
            .repartition("others", CODECS);
        // A row of another length is another value.
        let joined = |value: i64, row: usize| value + 64 * COPY * row as i64;
        let found = match self.by_another {
            true => others.join_table("found", rows, move |_, value, row| joined(value, row.len())),
            false => others
                .left_join_table("found", rows, move |_, value, row| joined(value, row.map_or(0, Vec::len))),
        };
        found
            .with_codecs(CODECS)
            .group_by_key()
            .aggregate("ids", Ids::new(), Vec::new, |_, id, ids| collected(id, ids));
    }

    /// The record with this number.
    pub(super) fn record(&self, id: i64, partitions: i32, random: &mut Random) -> Input {
        if self.end == End::FoundInSource && id % BLOCK < 2 {
            let key = bytes(id / BLOCK);
            let partition = partition_for_key(&key, partitions);
            let (key, value) = (Some(key), Some(bytes(id)));
            return Input { topic: "rows", partition, key, value, timestamp: time_of(id) };
        }
        let number = random.below(KEYS) as i64;
        let partition = (number % i64::from(partitions)) as i32;
        let topic = if self.has_second_topic() && random.one_in(3) { "more" } else { "in" };
        let (mut key, mut value) = (Some(bytes(number)), Some(bytes(id)));
        let mut timestamp = if self.takes_times { 7 } else { time_of(id) };
        match random.below(40) {
            0 => key = Some(b"no key".to_vec()),
            1 => value = Some(b"no number".to_vec()),
            2 => value = None,
            3 => key = None,
            4 if !self.takes_times => timestamp = -1,
            _ => {}
        }
        Input { topic, partition, key, value, timestamp }
    }
}

fn time_of(value: i64) -> i64 {
    origin(value) * STEP_MS
}

fn bytes(number: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    I64.encode(&number, &mut bytes).unwrap();
    bytes
}
