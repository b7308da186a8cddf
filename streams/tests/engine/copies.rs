//! What is copied on the way of a record, and what those who share it see: rows are shown where they stand, event time
//! and headers stand beside the record.

use kappa_streams::{
    Builder, Headers, TestDriver, Windows,
    codec::{Codec, CodecError, I64, Utf8, opt},
};
use std::{cell::Cell, time::Duration};

thread_local! {
    static COPIES: Cell<usize> = const { Cell::new(0) };
    static ENCODED: Cell<usize> = const { Cell::new(0) };
}

/// Text in capitals, that knows how often any was encoded.
struct Capitals;

impl Codec for Capitals {
    type Item = String;

    fn encode(&self, item: &String, out: &mut Vec<u8>) -> Result<(), CodecError> {
        ENCODED.set(ENCODED.get() + 1);
        Utf8.encode(&item.to_uppercase(), out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        Utf8.decode(bytes).map(|text| text.to_lowercase())
    }
}

#[test]
fn a_key_is_encoded_once_for_the_repartition_topic_and_all_that_is_behind_it() {
    let b = Builder::new("keys");
    let numbers = b.stream("in", (Utf8, I64)).repartition("again", (Capitals, I64));
    let numbers = numbers.filter(|_, number| *number > 0).map_values(|number| number + 1);
    let numbers = numbers.flat_map_values(|number| [number]).peek(|_| {});
    let counts = numbers.group_by_key().count("counts");
    let windows = Windows::tumbling(Duration::from_millis(10));
    let windowed = numbers.group_by_key().windowed_by(windows).count("windowed");
    let groups = b
        .table("rows", (Utf8, I64))
        .group_by("groups", (Capitals, I64), |key, row| (key.clone(), *row))
        .count("rows-counted");
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    ENCODED.set(0);
    for time in 0..5 {
        for topic in ["in", "rows"] {
            driver.input(topic, (Utf8, I64)).pipe(&mut driver, "k".into(), 7 + time, time).unwrap();
        }
    }
    // A row that changes is grouped twice: as what it was and as what it is.
    assert_eq!(ENCODED.get(), 5 + 1 + 4 * 2);
    assert_eq!(driver.get(&counts, &"k".into()).unwrap().map(|row| row.value), Some(5));
    assert_eq!(driver.get(&groups, &"k".into()).unwrap().map(|row| row.value), Some(1));
    assert_eq!(driver.fetch_windows(&windowed, &"k".into(), 0..=9).unwrap().len(), 1);
}

#[test]
fn a_key_that_has_changed_or_has_another_codec_is_encoded_again() {
    let b = Builder::new("other-keys");
    let numbers = b.stream("in", (opt(Utf8), I64)).repartition("again", (opt(Utf8), I64));
    numbers
        .map(|key, number| (key.unwrap() + "x", number))
        .with_codecs((Utf8, I64))
        .group_by_key()
        .count("changed");
    let texts = b.stream("in", (Utf8, I64)).repartition("texts", (Utf8, I64));
    texts.with_codecs((Capitals, I64)).group_by_key().count("capitals");
    texts
        .select_key(|_, number| number.to_string())
        .merge(&texts)
        .with_codecs((Utf8, I64))
        .group_by_key()
        .count("both");
    let joined = b.table("table", (Capitals, I64));
    texts.join_table("joined", &joined, |_, number, row| number + row).to("out", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    driver.input("table", (Capitals, I64)).pipe(&mut driver, "k".into(), 30, 0).unwrap();
    driver.input("in", (Utf8, I64)).pipe(&mut driver, "k".into(), 7, 1).unwrap();
    let out = driver.output("out", (Utf8, I64)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(out.into_iter().map(|record| record.value).collect::<Vec<_>>(), [37]);
    let keys = |store: &str| {
        let dump = driver.dump().unwrap();
        let of_store = dump.into_iter().filter(|((name, _), _)| **name == *store);
        let rows = of_store.flat_map(|(_, rows)| rows);
        rows.map(|row| String::from_utf8(row.key).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys("changed"), ["kx"]);
    assert_eq!(keys("capitals"), ["K"]);
    assert_eq!(keys("both"), ["7", "k"]);
}

/// An item that knows how often any of its kind was copied.
#[derive(Debug, PartialEq)]
struct Counted(i64);

impl Clone for Counted {
    fn clone(&self) -> Counted {
        COPIES.set(COPIES.get() + 1);
        Counted(self.0)
    }
}

struct CountedCodec;

impl Codec for CountedCodec {
    type Item = Counted;

    fn encode(&self, item: &Counted, out: &mut Vec<u8>) -> Result<(), CodecError> {
        I64.encode(&item.0, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Counted, CodecError> {
        I64.decode(bytes).map(Counted)
    }
}

#[test]
fn no_row_is_copied_for_operators_that_only_look() {
    let b = Builder::new("looking");
    let add = |_: &String, value: i64, sum: Counted| Counted(sum.0 + value);
    let numbers = b.stream("in", (Utf8, I64)).group_by_key();
    let sums = numbers.aggregate("sums", CountedCodec, || Counted(0), add);
    let odd = sums.filter(|_, sum| sum.0 % 2 != 0);
    odd.map_values(|_, sum| sum.0).to_stream().to("odd", (Utf8, I64));
    odd.group_by("by-parity", (Utf8, I64), |key, sum| (key.clone(), sum.0)).count("groups");
    let windows = Windows::tumbling(Duration::from_millis(10));
    let windowed = numbers.windowed_by(windows).aggregate("windowed", CountedCodec, || Counted(0), add);
    windowed.filter(|_, sum| sum.0 > 0).map_values(|_, sum| sum.0).to_stream().peek(|_| {});
    let rows = b.table("rows", (Utf8, CountedCodec));
    rows.map_values(|_, row| row.0).to_stream().to("rows-out", (Utf8, I64));
    let kept = b.stream("rows-in", (Utf8, CountedCodec)).to_table("kept", (Utf8, CountedCodec));
    kept.filter(|_, row| row.0 > 0).map_values(|_, row| row.0).to_stream().to("kept-out", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    COPIES.set(0);
    for (time, value) in [1, 2, 1, 1].into_iter().enumerate() {
        for topic in ["in", "rows", "rows-in"] {
            driver.input(topic, (Utf8, I64)).pipe(&mut driver, "k".into(), value, time as i64).unwrap();
        }
    }
    assert_eq!(COPIES.get(), 0);
    let odd = driver.output("odd", (Utf8, opt(I64))).unwrap().drain(&mut driver).unwrap();
    let odd: Vec<_> = odd.into_iter().map(|record| record.value).collect();
    assert_eq!(odd, [Some(1), Some(3), None, Some(5)]);
}

#[test]
fn a_row_may_be_looked_up_while_it_is_shown() {
    let b = Builder::new("own-row");
    let counts = b.stream("in", (Utf8, I64)).group_by_key().count("counts");
    let even = counts.filter(|_, count| count % 2 == 0);
    counts
        .to_stream()
        .left_join_table("with-itself", &counts, |_, seen, row| format!("{seen:?} {row:?}"))
        .left_join_table("with-even", &even, |_, seen, row| format!("{seen} {row:?}"))
        .to("out", (Utf8, Utf8));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    for time in [1, 2] {
        driver.input("in", (Utf8, I64)).pipe(&mut driver, "k".into(), 0, time).unwrap();
    }
    let out = driver.output("out", (Utf8, Utf8)).unwrap().drain(&mut driver).unwrap();
    let out: Vec<_> = out.into_iter().map(|record| record.value).collect();
    assert_eq!(out, ["Some(1) Some(1) None", "Some(2) Some(2) Some(2)"]);
}

#[test]
fn what_follows_from_a_row_has_its_time_and_what_else_follows_that_of_the_record() {
    let b = Builder::new("times");
    let numbers = b.stream("in", (Utf8, I64));
    numbers.group_by_key().count("counts").to_stream().to("counts-out", (Utf8, I64));
    numbers.flat_map_values(|value| [value, -value]).to("both", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let header = kappa_streams::Header { key: "trace".into(), value: None };
    let (value, with): (_, Headers) = (7i64.to_be_bytes(), [header].into_iter().collect());
    for (time, headers) in [(10, with.clone()), (5, Headers::NONE)] {
        driver.append("in", None, (Some(b"k"), Some(&value)), time, headers).unwrap();
    }
    driver.run().unwrap();
    let mut times = |topic| {
        let out = driver.output(topic, (Utf8, I64)).unwrap().drain(&mut driver).unwrap();
        out.into_iter().map(|record| (record.key, record.timestamp, record.headers)).collect::<Vec<_>>()
    };
    let at = |time, headers: &Headers| ("k".to_owned(), time, headers.clone());
    let none = Headers::NONE;
    assert_eq!(times("counts-out"), [at(10, &with), at(10, &none)]);
    assert_eq!(times("both"), [at(10, &with), at(10, &with), at(5, &none), at(5, &none)]);
}

/// An item that knows where it stands.
#[derive(Debug, Clone, Default, PartialEq)]
struct Placed {
    sum: i64,
    at: Option<usize>,
    moves: i64,
}

impl Placed {
    fn add(&mut self, value: i64) {
        let here = std::ptr::from_ref(self).addr();
        self.moves += i64::from(self.at.is_some_and(|before| before != here));
        self.at = Some(here);
        self.sum += value;
    }
}

struct PlacedCodec;

impl Codec for PlacedCodec {
    type Item = Placed;

    fn encode(&self, item: &Placed, out: &mut Vec<u8>) -> Result<(), CodecError> {
        I64.encode(&item.sum, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Placed, CodecError> {
        I64.decode(bytes).map(|sum| Placed { sum, ..Placed::default() })
    }
}

#[test]
fn an_aggregate_that_is_changed_in_place_is_not_moved() {
    let b = Builder::new("placed");
    let numbers = b.stream("in", (Utf8, I64)).group_by_key();
    let sums = numbers.aggregate_mut("sums", PlacedCodec, Placed::default, |_, value, sum| sum.add(value));
    let windows = Windows::tumbling(Duration::from_millis(100));
    let windowed = numbers.windowed_by(windows).aggregate_mut(
        "windowed",
        PlacedCodec,
        Placed::default,
        |_, value, sum| sum.add(value),
    );
    let groups = b
        .table("rows", (Utf8, I64))
        .group_by("by-parity", (I64, I64), |_, row| (row % 2, *row))
        .aggregate_mut(
            "groups",
            PlacedCodec,
            Placed::default,
            |_, row, sum| sum.add(row),
            |_, row, sum| sum.add(-row),
        );
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    for (time, value) in [(1, 1), (2, 3), (3, 5), (4, 5), (5, 7)] {
        for topic in ["in", "rows"] {
            for key in ["k", "l"] {
                driver.input(topic, (Utf8, I64)).pipe(&mut driver, key.into(), value, time).unwrap();
            }
        }
    }
    let seen = |row: Option<kappa_streams::Row<Placed>>| {
        row.map(|row| (row.value.sum, row.value.moves, row.timestamp))
    };
    // Where a row is made it is moved once, into its place.
    assert_eq!(seen(driver.get(&sums, &"k".into()).unwrap()), Some((21, 1, 5)));
    let rows = driver.fetch_windows(&windowed, &"k".into(), 0..=0).unwrap();
    assert_eq!(seen(rows.into_iter().next().map(|(_, row)| row)), Some((21, 1, 5)));
    assert_eq!(seen(driver.get(&groups, &1).unwrap()), Some((14, 1, 5)));
    let place = |key: &str| driver.get(&sums, &key.to_owned()).unwrap().and_then(|row| row.value.at);
    assert_ne!(place("k"), place("l"), "each is changed in its own place");
}

#[test]
fn who_is_behind_sees_an_aggregate_before_and_after_it_is_changed_in_place() {
    type Ids = kappa_streams::codec::Json<Vec<i64>>;
    let changes = |in_place: bool| {
        let b = Builder::new("shown");
        let numbers = b.stream("in", (Utf8, I64)).group_by_key();
        let ids = match in_place {
            true => numbers.aggregate_mut("ids", Ids::new(), Vec::new, |_, id, ids| ids.push(id)),
            false => numbers.aggregate("ids", Ids::new(), Vec::new, |_, id, mut ids| {
                ids.push(id);
                ids
            }),
        };
        ids.filter(|_, ids| ids.len() % 2 == 1)
            .map_values(|_, ids| ids.len() as i64)
            .to_stream()
            .to("odd", (Utf8, I64));
        let sizes = ids.group_by("by-size", (I64, I64), |_, ids| (ids.len() as i64, 1)).count("sizes");
        let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
        for (key, id) in [("a", 1), ("b", 2), ("a", 3), ("a", 4)] {
            driver.input("in", (Utf8, I64)).pipe(&mut driver, key.into(), id, id).unwrap();
        }
        let odd = driver.output("odd", (Utf8, opt(I64))).unwrap().drain(&mut driver).unwrap();
        let sizes = driver.rows(&sizes).unwrap();
        (
            odd,
            sizes.into_iter().map(|(size, row)| (size, row.value)).collect::<Vec<_>>(),
            driver.dump().unwrap(),
        )
    };
    let (odd, sizes, dump) = changes(true);
    assert_eq!(odd.iter().map(|record| record.value).collect::<Vec<_>>(), [Some(1), Some(1), None, Some(3)]);
    assert_eq!(sizes, [(1, 1), (2, 0), (3, 1)]);
    assert_eq!((odd, sizes, dump), changes(false));
}

#[test]
fn an_aggregate_that_becomes_a_null_in_place_is_deleted_and_begins_anew() {
    let b = Builder::new("null-in-place");
    let sums = b.stream("in", (Utf8, I64)).group_by_key().aggregate_mut(
        "sums",
        opt(I64),
        || Some(100),
        |_, n, sum| {
            *sum = sum.map(|sum| sum + n).filter(|_| n != 0);
        },
    );
    sums.to_stream().to("out", (Utf8, opt(opt(I64))));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    for (time, number) in [5, 0, 7].into_iter().enumerate() {
        driver.input("in", (Utf8, I64)).pipe(&mut driver, "k".into(), number, time as i64).unwrap();
        let row = driver.get(&sums, &"k".into()).unwrap().map(|row| row.value);
        assert_eq!(row, [Some(Some(105)), None, Some(Some(107))][time]);
        let before = driver.dump().unwrap();
        driver.crash().unwrap();
        assert_eq!(driver.dump().unwrap(), before);
    }
}
