//! One pass over the flights: the application runs until every flight and all that follows from it is processed, then
//! its stores, its views and its counters are taken down.

use super::{
    data::FLIGHT_COUNT,
    report::{AirlineRow, HourRow, Report},
    topology::{self, APPLICATION, Views},
};
use crate::{
    error::{self, Failure},
    output::grouped,
    place, session,
};
use indicatif::ProgressBar;
use kappa_client::{Admin, Client, TopicPartition};
use kappa_streams::{App, Config, Counters, EndOffsets, Entry, InternalNames, TaskId};
use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

/// How far one partition may be read ahead of another, in event time.
const SKEW_BOUND: Duration = Duration::from_secs(2 * 3_600);
/// Records that the application processes for one flight: the flight itself, three repartition records, and the
/// change of its route.
pub(super) const RECORDS_PER_FLIGHT: u64 = 5;

/// An application that builds the views.
pub(super) struct Running {
    app: App,
    views: Views,
    started: Instant,
}

/// What a pass left.
pub(super) struct Pass {
    /// The views.
    pub(super) report: Report,
    /// Every store entry, by store and task, in key order.
    pub(super) entries: BTreeMap<(Arc<str>, TaskId), Vec<Entry>>,
    /// What the tasks counted.
    pub(super) counters: Counters,
    /// Records written to repartition topics, and those of them consumed.
    pub(super) repartitioned: (i64, i64),
    /// Where the flights ended.
    pub(super) ends: EndOffsets,
    took: Duration,
}

impl Pass {
    /// How long it took and how fast it was, on one line.
    pub(super) fn speed(&self, which: &str) -> String {
        let seconds = self.took.as_secs_f64();
        let per_second = |count: u64| grouped((count as f64 / seconds) as u64);
        format!(
            "{which:<11} {} flights in {seconds:.2} s: {} flights/s, {} records/s with those of repartition topics",
            grouped(FLIGHT_COUNT as u64),
            per_second(FLIGHT_COUNT as u64),
            per_second(self.counters.records_in),
        )
    }
}

impl Running {
    /// Starts the application where its committed offsets say, or from offset 0; as a replay if `ends` are pinned.
    pub(super) async fn start(
        client: &Client,
        workers: u8,
        ends: Option<EndOffsets>,
    ) -> Result<Self, Failure> {
        let (topology, views) =
            topology::topology().map_err(|error| Failure::failed(error::chain(&error)))?;
        let mut config = Config::client(client).workers(workers.into()).skew_bound(SKEW_BOUND);
        if let Some(ends) = ends {
            config = config.replay_until(ends);
        }
        let started = Instant::now();
        let app =
            App::start(&topology, config).await.map_err(|error| Failure::failed(error::chain(&error)))?;
        Ok(Self { app, views, started })
    }

    /// Where the flights end now.
    pub(super) async fn end_offsets(&self) -> Result<EndOffsets, Failure> {
        self.app.end_offsets().await.map_err(|error| Failure::failed(error::chain(&error)))
    }

    /// Waits until everything up to `ends` is processed, and takes down what it left; `ends` may have to come first.
    /// The application goes on.
    pub(super) async fn finish(
        &self,
        admin: &Admin,
        ends: impl Future<Output = Result<EndOffsets, Failure>>,
        bar: &ProgressBar,
    ) -> Result<Pass, Failure> {
        let working = async {
            let ends = ends.await?;
            self.app.caught_up(&ends).await.map_err(|error| Failure::failed(error::chain(&error)))?;
            Ok(ends)
        };
        let showing = async {
            loop {
                // A worker that cannot answer now has nothing new to show.
                if let Ok(counters) = self.app.counters_now().await {
                    bar.set_position(counters.values().map(|counters| counters.records_in).sum());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let ends = tokio::select! {
            ends = working => ends?,
            never = showing => never,
        };
        let took = self.started.elapsed();
        bar.finish_and_clear();
        Ok(Pass {
            report: self.report().await.map_err(|error| Failure::failed(error::chain(&error)))?,
            entries: self.app.dump().await.map_err(|error| Failure::failed(error::chain(&error)))?,
            counters: self.app.counters(),
            repartitioned: repartitioned(admin).await?,
            ends,
            took,
        })
    }

    async fn report(&self) -> Result<Report, kappa_streams::QueryError> {
        let airlines = self.app.view(&self.views.airlines).all().await?.value;
        let hourly = self.app.view(&self.views.hourly).all().await?.value;
        let routes = self.app.view(&self.views.routes).all().await?.value;
        let airlines = airlines.into_iter().map(|(carrier, row)| AirlineRow { carrier, airline: row.value });
        let hourly = hourly.into_iter().map(|(windowed, row)| HourRow {
            origin: windowed.key,
            window_start: windowed.window.start,
            sums: row.value,
        });
        let routes = routes.into_iter().flat_map(|(_, row)| row.value);
        Ok(Report::new(airlines.collect(), hourly.collect(), routes.collect()))
    }

    /// Commits, leaves the group, and drops the stores.
    pub(super) async fn close(self) -> Result<(), Failure> {
        self.app.close().await.map_err(|error| Failure::failed(error::chain(&error)))
    }
}

/// Drops every changelog, repartition topic and offset of the application. Its stores went when it was closed.
pub(super) async fn drop_all(client: &Client) -> Result<(), Failure> {
    let reset = kappa_streams::reset(client, APPLICATION, 0).await;
    reset.map(drop).map_err(|error| Failure::failed(error::chain(&error)))
}

/// Records in the repartition topics and those of them that the application has committed as consumed, from the broker.
async fn repartitioned(admin: &Admin) -> Result<(i64, i64), Failure> {
    let names = InternalNames::new(APPLICATION, 0);
    let topics = admin.list_topics().await.map_err(|error| session::refused("list topics", &error))?;
    let prefix = format!("{names}-");
    let internal =
        topics.iter().filter(|topic| topic.name.starts_with(&prefix) && topic.name.ends_with("-repartition"));
    let partitions: Vec<_> = internal
        .flat_map(|topic| {
            (0..).take(topic.partitions).map(|index| TopicPartition::new(topic.name.as_str(), index))
        })
        .collect();
    let committed = admin.group_offsets(names.group()).await;
    let committed = committed.map_err(|error| session::refused("read the application's offsets", &error))?;
    let written = place::spans(admin, &partitions).await?.values().map(|span| span.end).sum();
    let consumed =
        partitions.iter().filter_map(|partition| committed.get(partition)).map(|found| found.offset).sum();
    Ok((written, consumed))
}
