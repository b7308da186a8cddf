//! `kappa app`.

use crate::harness::Broker;

#[test]
fn reset_shows_what_would_go_and_then_drops_it() {
    let broker = Broker::start();
    let topics = ["wc-counts-changelog", "wc-by-word-repartition", "wc-g1-counts-changelog", "lines"];
    broker.kappa(&[&["topic", "create"], &topics[..]].concat()).ok();
    let group = ["group", "reset-offsets", "wc", "--topic", "lines", "--to", "0", "--execute"];
    broker.kappa(&group).ok();

    let shown = broker.kappa(&["app", "reset", "wc"]).ok();
    let expected = "KIND     NAME\n\
                    topic    wc-by-word-repartition\n\
                    topic    wc-counts-changelog\n\
                    offsets  wc\n";
    assert_eq!(shown, format!("{expected}nothing was dropped; add --execute to do it\n"));
    assert_eq!(broker.kappa(&["app", "reset", "wc", "--execute"]).ok(), expected);

    let left = broker.kappa(&["topic", "list"]).ok();
    assert!(
        left.contains("lines") && left.contains("wc-g1-counts-changelog") && !left.contains("wc-counts"),
        "{left}"
    );
    assert_eq!(broker.kappa(&["group", "list"]).ok(), "no groups\n");
    broker.kappa(&["app", "reset", "wc"]).failed(
        4,
        "kappa: application 'wc' has no internal topics and no offsets; is its name right? See `kappa group list`",
    );
}
