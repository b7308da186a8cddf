//! Health and metrics as an operator's tools read them.

use crate::client::Running;
use kappa_broker::BrokerConfig;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
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
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
    }
    assert!(metrics.contains("kappa_flush_latency_seconds_bucket") && metrics.ends_with("# EOF\n"));
    running.stop();
}
