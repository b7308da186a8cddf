//! Where a record was read, its time and its headers, in functions; and topics chosen per record.

use bytes::Bytes;
use kappa_streams::{
    Builder, Header, Headers, Meta, OnFailure, TestDriver, WiringError,
    codec::{I64, Utf8},
};
use std::sync::{Arc, Mutex};

fn shown(meta: &Meta<'_>) -> String {
    let headers: Vec<&str> = meta.headers().iter().map(|header| &*header.key).collect();
    format!(
        "{}-{}@{} t{} {}",
        meta.topic(),
        meta.partition(),
        meta.offset(),
        meta.timestamp(),
        headers.join(",")
    )
}

fn piped(driver: &mut TestDriver, partition: i32, value: &str, timestamp: i64) {
    let headers: Headers =
        [Header { key: "trace".into(), value: Some(Bytes::from_static(b"1")) }].into_iter().collect();
    driver.append("in", Some(partition), (Some(b"k"), Some(value.as_bytes())), timestamp, headers).unwrap();
    driver.run().unwrap();
}

#[test]
fn every_operator_may_see_the_metadata_of_the_record() {
    let b = Builder::new("seen");
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let input = b.stream("in", (Utf8, Utf8));
    let to_seen = Arc::clone(&seen);
    input.peek_with(move |meta, key, value| {
        to_seen.lock().unwrap().push(format!("{key}={value} {}", shown(meta)))
    });
    let out = |name: &str, stream: kappa_streams::Stream<String, String>| stream.to(name, (Utf8, Utf8));
    out("map", input.map_with(|meta, key, _| (key, shown(meta))));
    out("values", input.map_values_with(|meta, _, _| shown(meta)));
    out("flat", input.flat_map_with(|meta, key, _| [(key, shown(meta))]));
    out("flat-values", input.flat_map_values_with(|meta, _, _| [shown(meta)]));
    out(
        "filter",
        input.filter_with(|meta, _, _| meta.offset() == 0).map_values_with(|meta, _, _| shown(meta)),
    );
    out("key", input.select_key_with(|meta, _, _| shown(meta)).map(|key, _| ("k".to_owned(), key)));
    type Fine = Result<bool, String>;
    let fine = input.try_filter_with(|meta, _, _| Fine::Ok(meta.offset() == 0));
    out("try", fine.try_map_values_with(|meta, _, _| Ok::<_, String>(shown(meta))));
    out("try-map", fine.try_map_with(|meta, key, _| Ok::<_, String>((key, shown(meta)))));
    out("try-flat", fine.try_flat_map_with(|meta, key, _| Ok::<_, String>([(key, shown(meta))])));
    out("try-flat-values", fine.try_flat_map_values_with(|meta, _, _| Ok::<_, String>([shown(meta)])));
    let mut driver = TestDriver::new(&b.build().unwrap()).partitions(2).start().unwrap();
    piped(&mut driver, 1, "v", 7);
    let expected = "in-1@0 t7 trace";
    for topic in [
        "map",
        "values",
        "flat",
        "flat-values",
        "filter",
        "key",
        "try",
        "try-map",
        "try-flat",
        "try-flat-values",
    ] {
        let found = driver.output(topic, (Utf8, Utf8)).unwrap().drain(&mut driver).unwrap();
        assert_eq!(found.iter().map(|record| &*record.value).collect::<Vec<_>>(), [expected], "{topic}");
    }
    piped(&mut driver, 1, "w", 8);
    assert_eq!(driver.output("filter", (Utf8, Utf8)).unwrap().drain(&mut driver).unwrap().len(), 0);
    assert_eq!(*seen.lock().unwrap(), [format!("k=v {expected}"), "k=w in-1@1 t8 trace".to_owned()]);
}

#[test]
fn behind_a_repartition_topic_it_is_the_record_of_that_topic() {
    let b = Builder::new("behind");
    let counts = b
        .stream("in", (Utf8, Utf8))
        .group_by("by-value", (Utf8, Utf8), |_, value| value.clone())
        .count("counts");
    counts
        .to_stream()
        .map_values_with(|meta, _, count| format!("{count:?} {}", shown(meta)))
        .to("out", (Utf8, Utf8));
    let mut driver = TestDriver::new(&b.build().unwrap()).start().unwrap();
    piped(&mut driver, 0, "v", 70);
    piped(&mut driver, 0, "v", 60);
    let found = driver.output("out", (Utf8, Utf8)).unwrap().drain(&mut driver).unwrap();
    // Behind a table the time is that of the row, the later of the two.
    let expected = [
        "Some(1) behind-by-value-repartition-0@0 t70 trace",
        "Some(2) behind-by-value-repartition-0@1 t70 trace",
    ];
    assert_eq!(found.iter().map(|record| &*record.value).collect::<Vec<_>>(), expected);
}

#[test]
fn an_operator_that_sees_metadata_keeps_key_and_codecs() {
    let b = Builder::new("kept");
    b.stream("in", (Utf8, Utf8))
        .filter_with(|_, _, _| true)
        .peek_with(|_, _, _| {})
        .try_filter(|_, _| Ok::<_, String>(true))
        .group_by_key()
        .reduce("last", |_, new| new);
    let topology = b.build().unwrap();
    assert!(!topology.describe().contains("repartition"), "{}", topology.describe());
}

#[test]
fn each_record_goes_to_the_topic_that_it_chooses() {
    let wired = |policy: OnFailure| {
        let b = Builder::new("chosen");
        b.stream("in", (Utf8, Utf8)).on_failure(policy).to_with(
            ["a", "b"],
            (Utf8, Utf8),
            |meta, _, value| {
                if meta.offset() == 0 { "a".to_owned() } else { value.clone() }
            },
        );
        TestDriver::new(&b.build().unwrap()).start().unwrap()
    };
    let mut driver = wired(OnFailure::dead_letter("letters"));
    for value in ["b", "b", "c"] {
        piped(&mut driver, 0, value, 9);
    }
    for (topic, offset) in [("a", "trace"), ("b", "trace")] {
        let found = driver.output(topic, (Utf8, Utf8)).unwrap().drain(&mut driver).unwrap();
        assert_eq!(
            found.iter().map(|record| (&*record.value, record.timestamp)).collect::<Vec<_>>(),
            [("b", 9)]
        );
        assert!(found[0].headers.last(offset).is_some());
    }
    let letters = driver.output("letters", (Utf8, Utf8)).unwrap().drain(&mut driver).unwrap();
    assert_eq!(letters.len(), 1);
    let error = {
        let mut driver = wired(OnFailure::Stop);
        driver.append("in", None, (Some(b"k"), Some(b"x")), 1, Headers::NONE).unwrap();
        driver.append("in", None, (Some(b"k"), Some(b"x")), 1, Headers::NONE).unwrap();
        driver.run().unwrap_err().to_string()
    };
    for part in ["\"in/to\"", "topic \"x\"", "a, b", "in-0 offset 1"] {
        assert!(error.contains(part), "{error} does not say {part}");
    }
}

#[test]
fn chosen_topics_are_part_of_the_topology() {
    let b = Builder::new("chosen");
    b.stream("in", (Utf8, I64)).to_with(["a", "b"], (Utf8, I64), |_, _, _| "a");
    let text = b.build().unwrap().describe();
    assert!(text.contains("sink a/sink (topic a)") && text.contains("sink b/sink (topic b)"), "{text}");
    let b = Builder::new("none");
    let none: [&str; 0] = [];
    b.stream("in", (Utf8, I64)).to_with(none, (Utf8, I64), |_, _, _| "a");
    assert!(matches!(b.build().unwrap_err().0[..], [WiringError::NoTopics { what: "a sink" }]));
}
