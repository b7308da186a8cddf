//! Health and metrics as an operator's tools read them.

use crate::client::Running;
use kappa_broker::BrokerConfig;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tempfile::tempdir;

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: kappa\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn health_and_metrics_are_served_on_a_port_of_their_own() {
    let dir = tempdir().unwrap();
    let mut config = BrokerConfig::new(dir.path());
    config.http = Some("127.0.0.1:0".into());
    let running = Running::with(config);
    let mut client = running.client();
    client.create_topic("lines", 2);
    client.produce("lines", 1, &["a", "b"]);
    let address = running.broker.http_address().unwrap();
    assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/nothing").starts_with("HTTP/1.1 404"));
    let metrics = get(address, "/metrics");
    for line in [
        "kappa_requests_total{api=\"Produce\"} 1",
        "kappa_request_latency_seconds_count{api=\"Produce\"} 1",
        "kappa_appended_records_total 2",
        "kappa_connections 1",
        "kappa_high_watermark{topic=\"lines\",partition=\"1\"} 2",
        "kappa_log_end_offset{topic=\"lines\",partition=\"0\"} 0",
        "kappa_log_start_offset{topic=\"lines\",partition=\"1\"} 0",
        "kappa_topics 2",
        "kappa_groups_bytes 0",
        "kappa_producers 0",
        "kappa_errors_total{error=\"UNKNOWN_TOPIC_OR_PARTITION\"} 0",
        "kappa_errors_total{error=\"UNKNOWN_SERVER_ERROR\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
    }
    let total = |name: &str| -> u64 {
        let found = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("_total "));
        found.unwrap_or_else(|| panic!("{name} is missing in\n{metrics}")).parse().unwrap()
    };
    // What was acknowledged above was made durable by one or the other.
    assert!(total("kappa_journal_commits") + total("kappa_flushes") > 0);
    assert!(total("kappa_journal_committed_partitions") >= total("kappa_journal_commits"));
    assert_eq!(total("kappa_flush_failures"), 0);
    assert!(metrics.contains("kappa_flush_latency_seconds_bucket") && metrics.ends_with("# EOF\n"));
    running.stop();
}

#[test]
fn who_takes_all_connections_and_asks_for_nothing_is_sent_away() {
    let dir = tempdir().unwrap();
    let mut config = BrokerConfig::new(dir.path());
    config.http = Some("127.0.0.1:0".into());
    let running = Running::with(config);
    let address = running.broker.http_address().unwrap();
    let idle: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
    for mut stream in idle {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let end = stream.read(&mut [0; 1]).map_err(|error| error.kind());
        assert!(
            matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)),
            "neither answered nor closed: {end:?}"
        );
    }
    // Who asks and stays is answered, and does not stay.
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: kappa\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    running.stop();
}
