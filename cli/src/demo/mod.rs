//! `kappa demo`: a year of real flights becomes live views, and the views are rebuilt from the log.
//!
//! Owns the order of events and the verdict: start a broker, feed it, build the views meanwhile, show them, drop all
//! that was derived, replay, compare. It exits with 0 only if every check holds. What the views are is `topology`'s
//! business.

mod checks;
mod data;
mod feed;
mod flight;
mod pass;
mod report;
#[cfg(test)]
mod tests;
mod topology;

use crate::{
    error::{self, Failure},
    interrupt::Interrupt,
    output::{self, grouped},
    progress,
};
use kappa_broker::{Broker, BrokerConfig};
use kappa_client::{Admin, Client};
use pass::{Pass, Running};
use std::{
    fs,
    path::{Path, PathBuf},
};

const FLIGHTS: u64 = data::FLIGHT_COUNT as u64;
/// Records that each pass processes, those of repartition topics included.
const RECORDS: u64 = pass::RECORDS_PER_FLIGHT * FLIGHTS;

const EXAMPLES: &str = "\
Examples:
  kappa demo
  kappa demo --json views.json
  kappa demo --data-dir ./demo-data --keep      # then, elsewhere, with the address that it prints:
  kappa -b HOST:PORT group describe flights-2013
  kappa -b HOST:PORT consume flights-2013-airlines-changelog -o beginning -e -f '%k %s\\n'";

/// Arguments of `kappa demo`.
///
/// Starts a broker in this process, produces all 336,776 flights that left New York in 2013, builds three views while
/// they come in, prints them, then drops every store, changelog, repartition topic and offset, replays the flights
/// from offset 0, and checks that every store entry is the same.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(
    about = "Build live views of every flight that left New York in 2013, then rebuild them from the log"
)]
pub(crate) struct Demo {
    /// Directory for the broker's data, not used by a broker so far [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Write the views to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Worker threads that the application's tasks are spread over. They hold each other within the bound on skew, so
    /// that no flight is late
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// Leave broker and application running to be queried, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

impl Demo {
    /// Runs it.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let temporary = tempfile::tempdir();
        let temporary =
            temporary.map_err(|error| Failure::failed(format!("cannot make a directory: {error}")))?;
        let data_dir = self.data_dir.clone().unwrap_or_else(|| temporary.path().join("kappa-data"));
        if fs::read_dir(&data_dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::failed(format!("'{}' is not empty", data_dir.display()))
                .cure("give the demo a directory of its own with --data-dir"));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
        let verdict = runtime.block_on(self.run_in(&data_dir));
        // After an interruption or a failure it may still be busy with what nobody waits for.
        runtime.shutdown_background();
        verdict
    }

    async fn run_in(&self, data_dir: &Path) -> Result<(), Failure> {
        let mut interrupt = Interrupt::listen()?;
        let broker = Broker::start(BrokerConfig::new(data_dir)).await;
        let broker = broker.map_err(|error| Failure::failed(error::chain(&error)))?;
        let (verdict, running) = tokio::select! {
            passes = self.run_on(&broker, data_dir) => passes?,
            // Whatever still runs ends with the process; the directory is removed before.
            () = interrupt.received() => return Err(Failure::interrupted()),
        };
        let kept = if self.keep { keep_running(&broker, &mut interrupt).await } else { Ok(()) };
        running.close().await?;
        broker.stop().await.map_err(|error| Failure::failed(error::chain(&error)))?;
        verdict.and(kept)
    }

    /// Both passes. Returns whether all checks hold, and the application as the replay left it.
    async fn run_on(
        &self,
        broker: &Broker,
        data_dir: &Path,
    ) -> Result<(Result<(), Failure>, Running), Failure> {
        output::line(&format!("broker on {}, its data in {}", broker.address(), data_dir.display()))?;
        output::line(&format!("building three views while {} flights come in\n", grouped(FLIGHTS)))?;
        let client = Client::in_process(broker.lane());
        let admin = Admin::new(&client);
        feed::create_topics(&admin).await?;
        feed::airlines(&client).await?;

        let first = first_pass(&client, &admin, self.workers).await?;
        output::line(&first.report.text())?;
        if let Some(path) = &self.json {
            write_json(path, &first.report)?;
        }
        output::line(
            "\ndropping every store, changelog, repartition topic and offset, and replaying the flights",
        )?;
        pass::drop_all(&client).await?;
        let running = Running::start(&client, self.workers, Some(first.ends.clone())).await?;
        let bar = progress::bar(RECORDS, "records replayed");
        let replay = running.finish(&admin, async { Ok(first.ends.clone()) }, &bar).await?;
        output::line(&format!("\n{}\n{}\n", first.speed("first pass"), replay.speed("replay")))?;

        Ok((checks::verdict(&first, &replay), running))
    }
}

/// Builds the views while the flights come in.
async fn first_pass(client: &Client, admin: &Admin, workers: u8) -> Result<Pass, Failure> {
    let flights = data::flights().map_err(|error| Failure::failed(error::chain(&error)))?;
    let running = Running::start(client, workers, None).await?;
    let (produced, processed) = progress::bars((FLIGHTS, "flights produced"), (RECORDS, "records processed"));
    let ends = async {
        feed::flights(client, &flights, &produced).await?;
        produced.finish();
        running.end_offsets().await
    };
    let pass = running.finish(admin, ends, &processed).await?;
    produced.finish_and_clear();
    running.close().await?;
    Ok(pass)
}

async fn keep_running(broker: &Broker, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let address = broker.address();
    output::line(&format!(
        "broker and application go on until Ctrl-C; ask them, for example:\n  \
         kappa -b {address} topic list\n  \
         kappa -b {address} group describe {}\n  \
         kappa -b {address} consume {} -o -3 -e --output json",
        topology::APPLICATION,
        topology::FLIGHTS,
    ))?;
    interrupt.received().await;
    Ok(())
}

fn write_json(path: &Path, report: &report::Report) -> Result<(), Failure> {
    let json = serde_json::to_vec(report).map_err(|error| Failure::failed(error.to_string()))?;
    fs::write(path, json).map_err(|error| Failure::file("write", path, &error))
}
