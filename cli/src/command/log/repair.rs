//! `kappa log repair`: what a copy of a damaged data directory would keep, and the copy.

use crate::{
    error::{Exit, Failure},
    output::{self, Column, Output, Row},
};
use kappa_broker::{Finding, Kept, RepairError};
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `kappa log repair`.
#[derive(Debug, clap::Args)]
pub(crate) struct Repair {
    /// Data directory of a broker that is stopped
    #[arg(value_name = "DATA_DIR")]
    dir: PathBuf,
    /// Make the repaired copy in this directory, which must not be there yet
    #[arg(long, value_name = "NEW_DIR")]
    to: Option<PathBuf>,
}

/// What is wrong, and what comes of it.
#[derive(Debug, Serialize)]
struct FindingRow {
    path: String,
    found: String,
    done: String,
    lost: String,
}

/// What is kept of a partition.
#[derive(Debug, Serialize)]
struct KeptRow {
    topic: String,
    partition: i32,
    start_offset: i64,
    end_offset: i64,
}

/// All of it, for programs.
#[derive(Debug, Serialize)]
struct Report {
    findings: Vec<FindingRow>,
    kept: Vec<KeptRow>,
    copy: Option<PathBuf>,
}

impl Row for FindingRow {
    const COLUMNS: &'static [Column] =
        &[Column::Text("PATH"), Column::Text("FOUND"), Column::Text("IN THE COPY"), Column::Text("LOST")];

    fn cells(&self) -> Vec<String> {
        let lost = if self.lost.is_empty() { "nothing" } else { &self.lost };
        vec![self.path.clone(), self.found.clone(), self.done.clone(), lost.to_owned()]
    }
}

impl Row for KeptRow {
    const COLUMNS: &'static [Column] =
        &[Column::Text("KEPT"), Column::Number("START"), Column::Number("END")];

    fn cells(&self) -> Vec<String> {
        let partition = format!("{}-{}", self.topic, self.partition);
        vec![partition, self.start_offset.to_string(), self.end_offset.to_string()]
    }
}

impl Repair {
    /// Runs it.
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let repaired =
            kappa_broker::repair(&self.dir, self.to.as_deref()).map_err(|error| failure(&error))?;
        let finding = |Finding { path, found, done, lost }| FindingRow { path, found, done, lost };
        let kept = |Kept { topic, partition, start, end }| KeptRow {
            topic,
            partition,
            start_offset: start,
            end_offset: end,
        };
        let report = Report {
            findings: repaired.findings.into_iter().map(finding).collect(),
            kept: repaired.kept.into_iter().map(kept).collect(),
            copy: self.to,
        };
        if output == Output::Json {
            output.done("", &report)?;
        } else {
            output.rows(&report.findings, "nothing is wrong")?;
            output::line("")?;
            output.rows(&report.kept, "no partitions are kept")?;
        }
        match (&report.copy, report.findings.len()) {
            (Some(to), _) if output == Output::Table => output::line(&format!(
                "\nthe copy is in '{}': start the broker with --data-dir there, and keep the original until you are sure",
                to.display()
            )),
            (Some(_), _) | (None, 0) => Ok(()),
            (None, found) => {
                let plural = if found == 1 { "problem" } else { "problems" };
                Err(Failure::new(Exit::Unsound, format!("{found} {plural} found, nothing was written"))
                    .cure("--to NEW_DIR makes a copy without it"))
            }
        }
    }
}

fn failure(error: &RepairError) -> Failure {
    let is_missing = |source: &std::io::Error| source.kind() == std::io::ErrorKind::NotFound;
    let exit = match error {
        RepairError::DataDir(kappa_broker::DataDirError::Disk { source, .. }) if is_missing(source) => {
            Exit::NotFound
        }
        RepairError::Disk { source, .. } if is_missing(source) => Exit::NotFound,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}
