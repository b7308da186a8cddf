//! `kappa app`.

use crate::harness::Broker;
use kappa_streams::{App, Builder, Config, codec::Utf8};

/// What an application records of a generation.
fn record(broker: &Broker, generation: u32, group: &str, topics: &[&str]) {
    let topics = topics.iter().map(|topic| format!("{group}-{topic}")).collect::<Vec<_>>();
    broker
        .kappa(&["topic", "create"].into_iter().chain(topics.iter().map(String::as_str)).collect::<Vec<_>>())
        .ok();
    let record = serde_json::json!({
        "generation": generation, "fingerprint": 7, "group": group, "topics": topics, "replay_until": []
    });
    let key = generation.to_string();
    let produce = ["produce", "wc-generations", "--key", &key, "--partition", "0"];
    broker.kappa_with(&produce, record.to_string().as_bytes()).ok();
}

#[test]
fn reset_shows_what_would_go_and_then_drops_that_and_nothing_of_others() {
    let broker = Broker::start();
    // One that begins alike is another application.
    let others = ["lines", "wc-x-counts-changelog", "wc-x-by-word-repartition"];
    broker.kappa(&[&["topic", "create"], &others[..]].concat()).ok();
    broker.kappa(&["topic", "create", "wc-generations", "--config", "cleanup.policy=compact"]).ok();
    record(&broker, 0, "wc", &["counts-changelog"]);
    record(&broker, 1, "wc-g1", &["by-word-repartition", "counts-changelog"]);
    let group = ["group", "reset-offsets", "wc-g1", "--topic", "lines", "--to", "0", "--execute"];
    broker.kappa(&group).ok();

    let shown = broker.kappa(&["app", "reset", "wc"]).ok();
    let expected = "KIND     NAME\n\
                    topic    wc-g1-by-word-repartition\n\
                    topic    wc-g1-counts-changelog\n\
                    offsets  wc-g1\n";
    let nothing = "nothing of generation 1 was dropped; add --execute to do it\n";
    assert_eq!(shown, format!("{expected}{nothing}"), "the latest is what a start goes on with");
    assert_eq!(broker.kappa(&["app", "reset", "wc", "--execute"]).ok(), expected);

    let left = broker.kappa(&["topic", "list"]).ok();
    assert!(others.iter().all(|topic| left.contains(topic)), "{left}");
    assert!(left.contains("wc-counts-changelog") && !left.contains("wc-g1"), "{left}");
    assert_eq!(broker.kappa(&["group", "list"]).ok(), "no groups\n");
    assert!(broker.kappa(&["app", "reset", "wc", "--generation", "0"]).ok().contains("wc-counts-changelog"));
    broker.kappa(&["app", "reset", "cw"]).failed(
        4,
        "kappa: no generation 0 of application 'cw' is recorded; is its name right? See `kappa topic list`",
    );
}

#[test]
fn an_application_that_was_reset_starts_again() {
    let broker = Broker::start();
    broker.kappa(&["topic", "create", "lines"]).ok();
    let b = Builder::new("wc");
    b.stream("lines", (Utf8, Utf8)).group_by_key().count("counts");
    let topology = b.build().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let run = || {
        runtime.block_on(async {
            let app = App::start(&topology, Config::bootstrap(broker.address())).await?;
            app.running().await.unwrap();
            app.close().await.unwrap();
            Ok::<_, kappa_streams::StartError>(())
        })
    };
    run().unwrap();
    broker.kappa(&["topic", "delete", "wc-counts-changelog"]).ok();
    let gone = run().unwrap_err().to_string();
    assert!(gone.contains("wc-counts-changelog"), "{gone}");
    broker.kappa(&["app", "reset", "wc", "--execute"]).ok();
    run().unwrap();
}
