//! Records that cannot be decoded and functions that fail: stop, skip and count, or a dead letter that says why.

use kappa_streams::{
    Builder, Header, Headers, OnFailure, Record, TestDriver, WiringError,
    codec::{I64, Raw, Utf8, opt},
};

const BAD: (Option<&[u8]>, Option<&[u8]>) = (Some(b"k"), Some(b"seven"));

fn text(record: &Record<String, String>, header: &str) -> String {
    let value = record.headers.last(&format!("__streams.errors.{header}")).flatten().unwrap();
    String::from_utf8(value.to_vec()).unwrap()
}

fn letters(driver: &mut TestDriver) -> Vec<Record<String, String>> {
    driver.output("letters", (Utf8, Utf8)).unwrap().drain(driver).unwrap()
}

/// Numbers from texts, with something in front of the function that fails.
fn parsed(wire: impl Fn(&Builder)) -> TestDriver {
    let b = Builder::new("parsed");
    wire(&b);
    b.stream("texts", (Utf8, Utf8)).try_map_values(|text| text.parse::<i64>()).to("numbers", (Utf8, I64));
    TestDriver::new(&b.build().unwrap()).partitions(2).start().unwrap()
}

#[test]
fn a_function_that_fails_stops_the_application_by_name() {
    let mut driver = parsed(|_| {});
    driver.append("texts", Some(1), (Some(b"k"), Some(b"7")), 1, Headers::NONE).unwrap();
    driver.append("texts", Some(1), BAD, 2, Headers::NONE).unwrap();
    let error = driver.run().unwrap_err().to_string();
    for part in ["\"texts/map-values\"", "texts-1 offset 1", "invalid digit", "on_failure"] {
        assert!(error.contains(part), "{error} does not say {part}");
    }
}

#[test]
fn a_failure_is_skipped_and_counted_for_a_whole_topology() {
    let mut driver = parsed(|b| b.on_failure(OnFailure::Skip));
    for value in ["1", "two", "3"] {
        driver.input("texts", (Utf8, Utf8)).pipe(&mut driver, "k".into(), value.into(), 1).unwrap();
    }
    let numbers = driver.output("numbers", (Utf8, I64)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(numbers.iter().map(|record| record.value).collect::<Vec<_>>(), [1, 3]);
    assert_eq!((driver.counters().failed, driver.counters().dead_letters), (1, 0));
}

#[test]
fn a_dead_letter_is_the_record_as_it_was_read_and_says_why() {
    let b = Builder::new("letters");
    b.stream("texts", (Utf8, Utf8))
        .on_failure(OnFailure::dead_letter("letters"))
        .map_values(|text| text.to_uppercase())
        .try_map_values(|text| text.parse::<i64>())
        .to("numbers", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).partitions(2).start().unwrap();
    let trace: Headers = [Header { key: "trace".into(), value: None }].into_iter().collect();
    driver.append("texts", Some(1), (Some(b"k"), Some(b"7")), 1, Headers::NONE).unwrap();
    driver.append("texts", Some(1), BAD, 42, trace).unwrap();
    driver.run().unwrap();
    let letters = letters(&mut driver);
    let [letter] = &letters[..] else { panic!("one letter: {letters:?}") };
    assert_eq!((&*letter.key, &*letter.value, letter.timestamp), ("k", "seven", 42));
    assert_eq!(letter.headers.last("trace"), Some(None));
    assert_eq!(text(letter, "exception"), "core::num::error::ParseIntError");
    assert_eq!(text(letter, "message"), "invalid digit found in string");
    assert_eq!(
        (text(letter, "topic"), text(letter, "partition"), text(letter, "offset")),
        ("texts".into(), "1".into(), "1".into())
    );
    assert_eq!(text(letter, "operator"), "texts/map-values/map-values");
    assert_eq!((driver.counters().failed, driver.counters().dead_letters), (1, 1));
    assert_eq!(driver.output("numbers", (Utf8, I64)).unwrap().drain(&mut driver).unwrap().len(), 1);
}

#[test]
fn what_is_said_closest_to_an_operator_holds() {
    let b = Builder::new("closest");
    b.on_failure(OnFailure::Stop);
    let texts = b.source("texts", (Utf8, Utf8)).on_failure(OnFailure::Skip).stream();
    let parse = |text: String| text.parse::<i64>();
    texts.try_map_values(parse).to("skipped", (Utf8, I64));
    let through = texts.on_failure(OnFailure::dead_letter("letters")).repartition("spread", (Utf8, Utf8));
    through.try_map_values(parse).to("buried", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    driver.append("texts", None, BAD, 1, Headers::NONE).unwrap();
    driver.run().unwrap();
    let letters = letters(&mut driver);
    assert_eq!(letters.len(), 1);
    // Behind a repartition topic it is its record that was being processed.
    assert_eq!(text(&letters[0], "topic"), "closest-spread-repartition");
    assert_eq!(driver.counters().failed, 2);
}

#[test]
fn undecodable_records_of_streams_and_tables_are_dead_letters_too() {
    let b = Builder::new("undecodable");
    b.on_failure(OnFailure::dead_letter("letters"));
    b.stream("numbers", (opt(Utf8), I64)).to("out", (opt(Utf8), I64));
    let table = b.table("rows", (Utf8, I64));
    table.to_stream().to("changes", (Utf8, opt(I64)));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    driver.append("numbers", None, (None, Some(b"xyz")), 1, Headers::NONE).unwrap();
    driver.append("rows", None, (Some(b"k"), Some(b"abc")), 2, Headers::NONE).unwrap();
    driver.append("rows", None, (Some(b"\xff"), Some(&7i64.to_be_bytes())), 3, Headers::NONE).unwrap();
    driver.append("rows", None, (Some(b"k"), Some(&7i64.to_be_bytes())), 4, Headers::NONE).unwrap();
    driver.run().unwrap();
    let letters = driver.output("letters", (opt(Raw), Raw)).unwrap().drain(&mut driver).unwrap();
    let mut values: Vec<_> = letters.iter().map(|letter| letter.value.to_vec()).collect();
    values.sort();
    assert_eq!(values, [7i64.to_be_bytes().to_vec(), b"abc".to_vec(), b"xyz".to_vec()]);
    let message = letters.iter().find(|letter| letter.value == b"xyz"[..]).unwrap();
    let message = message.headers.last("__streams.errors.message").flatten().unwrap();
    assert_eq!(&message[..], b"i64 takes 8 bytes, got 3");
    assert_eq!((driver.counters().undecodable, driver.counters().dead_letters), (3, 3));
    // What was dropped stays dropped, and is not written again.
    let before = driver.dump().unwrap();
    driver.crash().unwrap();
    driver.run().unwrap();
    assert_eq!(driver.dump().unwrap(), before);
    assert_eq!(driver.counters().dead_letters, 3);
}

#[test]
fn only_what_failed_is_left_out() {
    let b = Builder::new("part");
    b.on_failure(OnFailure::dead_letter("letters"));
    b.stream("lines", (Utf8, Utf8))
        .flat_map_values(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .try_map_values(|word| word.parse::<i64>())
        .to("numbers", (Utf8, I64));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    driver.input("lines", (Utf8, Utf8)).pipe(&mut driver, "k".into(), "1 x 3 y".into(), 1).unwrap();
    let numbers = driver.output("numbers", (Utf8, I64)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(numbers.iter().map(|record| record.value).collect::<Vec<_>>(), [1, 3]);
    let letters = letters(&mut driver);
    assert_eq!(letters.iter().map(|letter| &*letter.value).collect::<Vec<_>>(), ["1 x 3 y"; 2]);
}

#[test]
fn every_fallible_operator_passes_on_what_succeeds() {
    let b = Builder::new("all");
    b.on_failure(OnFailure::Skip);
    let texts = b.stream("texts", (Utf8, Utf8));
    let parse = |text: String| text.parse::<i64>();
    let out = |name: &str, stream: kappa_streams::Stream<String, i64>| stream.to(name, (Utf8, I64));
    out("map", texts.try_map(move |key, text| Ok::<_, std::num::ParseIntError>((key + "!", parse(text)?))));
    out("values", texts.try_map_values(parse));
    out("flat", texts.try_flat_map(move |key, text| parse(text).map(|n| (n > 1).then_some((key, n)))));
    out("flat-values", texts.try_flat_map_values(move |text| parse(text).map(|n| vec![n; n as usize])));
    out("filter", texts.try_filter(|_, text| text.parse::<i64>().map(|n| n > 1)).map_values(|_| 0));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    for value in ["1", "2", "x"] {
        driver.input("texts", (Utf8, Utf8)).pipe(&mut driver, "k".into(), value.into(), 1).unwrap();
    }
    let mut found = |topic: &str| -> Vec<(String, i64)> {
        let records = driver.output(topic, (Utf8, I64)).unwrap().drain(&mut driver).unwrap();
        records.into_iter().map(|record| (record.key, record.value)).collect()
    };
    let of =
        |key: &str, values: &[i64]| values.iter().map(|value| (key.to_owned(), *value)).collect::<Vec<_>>();
    assert_eq!(found("map"), of("k!", &[1, 2]));
    assert_eq!(found("values"), of("k", &[1, 2]));
    assert_eq!(found("flat"), of("k", &[2]));
    assert_eq!(found("flat-values"), of("k", &[1, 2, 2]));
    assert_eq!(found("filter"), of("k", &[0]));
    assert_eq!(driver.counters().failed, 5);
}

#[test]
fn dead_letters_that_would_be_read_again_are_refused() {
    let b = Builder::new("loop");
    b.stream("in", (Utf8, Utf8)).on_failure(OnFailure::dead_letter("in")).to("out", (Utf8, Utf8));
    let errors = b.build().unwrap_err().0;
    assert!(matches!(&errors[..], [WiringError::DeadLetters { topic }] if topic == "in"), "{errors:?}");
    let b = Builder::new("global");
    let names = b.source("names", (Utf8, Utf8)).on_failure(OnFailure::dead_letter("letters")).global_table();
    b.stream("in", (Utf8, Utf8))
        .join_global("j", &names, |key, _| key.clone(), |_, value, _| value)
        .to("out", (Utf8, Utf8));
    let errors = b.build().unwrap_err().0;
    assert!(matches!(errors[..], [WiringError::GlobalDeadLetters { .. }]), "{errors:?}");
}

#[test]
fn a_global_table_skips_what_it_may_skip() {
    let loaded = |policy: OnFailure| {
        let b = Builder::new("global");
        let names = b.source("names", (Utf8, I64)).on_failure(policy).global_table();
        b.stream("in", (Utf8, I64))
            .join_global("j", &names, |key, _| key.clone(), |_, n, m| n + m)
            .to("out", (Utf8, I64));
        let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
        let appended = driver.append("names", None, (Some(b"k"), Some(b"x")), 1, Headers::NONE);
        (appended, driver.counters().undecodable)
    };
    assert_eq!(loaded(OnFailure::Skip), (Ok(()), 1));
    assert!(loaded(OnFailure::Stop).0.is_err());
}

#[test]
fn a_panic_names_the_record() {
    let b = Builder::new("beast");
    b.stream("in", (Utf8, I64))
        .map_values(|value| assert!(value != 666, "the beast has come"))
        .to("out", (Utf8, kappa_streams::codec::Postcard::<()>::new()));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    let input = driver.input("in", (Utf8, I64));
    for value in [1, 2, 666] {
        input.append(&mut driver, None, "k".into(), value, 0).unwrap();
    }
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| driver.run())).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("the beast has come") && text.contains("in-0 at offset 2"), "{text}");
}
