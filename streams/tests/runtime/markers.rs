//! Inputs that end in the marker of a transaction, which takes an offset and is no record.

use crate::cluster::{Cluster, settle};
use bytes::{Bytes, BytesMut};
use kappa_client::Client;
use kappa_protocol::{
    Context, Records, Reply, Request, Response, Service,
    record::{BatchBuilder, BatchOptions},
};
use kappa_streams::{App, Builder, Config, Table, Topology, codec::Utf8};
use std::{sync::Arc, time::Duration};

/// The value of a record that readers see as a marker.
const MARKER: &str = "the end of a transaction";
/// Bytes of a batch up to its length, and that length included.
const LENGTH_END: usize = 12;

/// A broker in whose logs there are markers.
struct Transactional(Arc<dyn Service>);

fn marker(batch: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { control: true, ..BatchOptions::default() });
    // Version 0, type 1: commit; value: version 0 and the coordinator's epoch.
    builder.push(0, Some(&[0, 0, 0, 1]), Some(&[0; 6]), []);
    let mut control = BytesMut::from(&builder.finish(0)[..]);
    // Base offset and leader epoch are not part of the checksum.
    control[..8].copy_from_slice(&batch[..8]);
    control[12..16].copy_from_slice(&batch[12..16]);
    control.freeze()
}

fn with_markers(records: &Records) -> Records {
    let mut rest = records.to_bytes();
    let mut batches = Vec::new();
    while rest.len() > LENGTH_END {
        let length = i32::from_be_bytes(rest[8..LENGTH_END].try_into().unwrap()) as usize;
        let batch = rest.split_to((LENGTH_END + length).min(rest.len()));
        let is_marker = batch.windows(MARKER.len()).any(|part| part == MARKER.as_bytes());
        batches.push(if is_marker { marker(&batch) } else { batch });
    }
    Records::from(batches)
}

impl Service for Transactional {
    fn call(&self, cx: &Context, request: Request) -> Reply {
        if !matches!(request, Request::Fetch(_)) {
            return self.0.call(cx, request);
        }
        let mark = |response: Response| {
            let Response::Fetch(mut fetch) = response else { return response };
            for data in fetch.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
                data.records = data.records.as_ref().map(with_markers);
            }
            Response::Fetch(fetch)
        };
        match self.0.call(cx, request) {
            Reply::Now(response) => Reply::Now(mark(response)),
            Reply::Later(later) => Reply::Later(Box::pin(async move { later.await.map(mark) })),
            Reply::None => Reply::None,
        }
    }
}

fn joined() -> (Topology, Table<String, String>) {
    let b = Builder::new("joined");
    let rows = b.table("rows", (Utf8, Utf8));
    let joined = b
        .stream("in", (Utf8, Utf8))
        .join_table("join", &rows, |_, value, row: &String| format!("{value} {row}"))
        .to_table("joined", (Utf8, Utf8));
    (b.build().unwrap(), joined)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_in_a_marker_is_read_to_its_end() {
    let cluster = Cluster::start().await;
    cluster.topic("rows", 1).await;
    cluster.topic("in", 1).await;
    let record = |value: &str, time| (0, "k".to_owned(), value.to_owned(), time);
    cluster.write("rows", [record("row", 1)]).await;
    cluster.write("rows", [record(MARKER, 1)]).await;
    cluster.write("in", (0..5).map(|at| record(&at.to_string(), at))).await;
    cluster.write("in", [record(MARKER, 9)]).await;
    let client = Client::in_process(Arc::new(Transactional(cluster.lane())));
    // The stream is ahead of the table, and waits until that has come to its end.
    let config = || {
        let config = Config::client(&client).commit_interval(Duration::from_millis(100));
        config.idle_timeout(Duration::from_millis(100)).skew_bound(Duration::ZERO)
    };
    let counted = async |config: Config| {
        let (topology, table) = joined();
        let app = App::start(&topology, config).await.unwrap();
        let ends = settle(&app).await;
        let row = app.view(&table).get("k").await.unwrap().value.map(|row| row.value);
        assert_eq!(row.as_deref(), Some("4 row"));
        app.close().await.unwrap();
        ends
    };
    let ends = counted(config()).await;
    // A restore of the table, and a replay up to offsets that no record has.
    counted(config()).await;
    counted(config().generation(1).replay_until(ends)).await;
    client.close().await;
    cluster.stop().await;
}
