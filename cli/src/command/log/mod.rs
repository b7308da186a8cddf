//! `kappa log`: reads a data directory offline, with no broker.

mod dump;
mod repair;
mod segment;
mod verify;

use crate::{
    error::{Exit, Failure},
    output::{self, Output},
    progress,
};
use std::path::{Path, PathBuf};

/// Look into a data directory without a broker
#[derive(Debug, clap::Subcommand)]
pub(crate) enum LogCommand {
    /// Print batches and records as they lie on disk
    ///
    /// DIR may also be a directory that was set aside, one segment's file, or a `.corrupt` file that recovery cut off a
    /// segment: of that, what is no batch is told and passed over. Exits with 5 if there is damage.
    #[command(after_long_help = DUMP_EXAMPLES)]
    Dump(Dump),
    /// Check every batch, record and index entry, and what a start needs; change nothing
    ///
    /// Exits with 5 if anything does not hold. Of a whole data directory it also checks what stands beside the segments:
    /// identity, catalog, checkpoints, journal; with --topic, --partition or one partition's directory, and while a broker
    /// runs on it, only segments and indexes. What is read while a broker runs can look like a torn end. FIRST IN FILES is
    /// the first offset that is on disk, which DeleteRecords may have put out of reach.
    #[command(after_long_help = VERIFY_EXAMPLES)]
    Verify(Verify),
    /// Make a copy of a data directory that a broker starts on, and say what is lost
    ///
    /// For a directory that a broker refuses, or that `log verify` finds damage in. Without --to nothing is written: it says
    /// what is wrong, what the copy would have instead and which offsets would be lost. The original is never changed. The
    /// broker must be stopped. It exits with 5 if anything is wrong and no copy was asked for. The copy takes as much room as the original.
    #[command(after_long_help = REPAIR_EXAMPLES)]
    Repair(repair::Repair),
}

const REPAIR_EXAMPLES: &str = "\
Examples:
  kappa log repair ./kappa-data
  kappa log repair ./kappa-data --to ./kappa-data-repaired
  kappa broker --data-dir ./kappa-data-repaired";

const DUMP_EXAMPLES: &str = "\
Examples:
  kappa log dump ./kappa-data --topic flights --partition 0
  kappa log dump ./kappa-data/flights-0 --records --from-offset 1000 | head
  kappa log dump ./kappa-data --topic flights --records --output json
  kappa log dump ./kappa-data/set-aside/flights-0.1690000000000
  kappa log dump ./kappa-data/flights-0/00000000000000000000.log.4096.corrupt";

const VERIFY_EXAMPLES: &str = "\
Examples:
  kappa log verify ./kappa-data
  kappa log verify ./kappa-data --topic flights --output json";

/// Which partitions.
#[derive(Debug, clap::Args)]
struct Which {
    /// Data directory of a broker, or the directory of one partition
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only partitions of this topic
    #[arg(short, long)]
    topic: Option<String>,
    /// Only partitions of this number
    #[arg(short, long)]
    partition: Option<i32>,
}

/// Arguments of `kappa log dump`.
#[derive(Debug, clap::Args)]
pub(crate) struct Dump {
    #[command(flatten)]
    which: Which,
    /// Print the records of each batch too
    #[arg(short, long)]
    records: bool,
    /// Leave out what ends before this offset
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    from_offset: i64,
}

/// Arguments of `kappa log verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    which: Which,
}

impl LogCommand {
    /// Runs it.
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        match self {
            LogCommand::Dump(dump) => {
                let wanted = dump::Wanted { from_offset: dump.from_offset, records: dump.records, output };
                let found = dump.which.chosen(segment::anything(&dump.which.dir)?)?;
                found.iter().try_for_each(|dir| dump::partition(dir, wanted))
            }
            LogCommand::Verify(verify) => verify.run(output),
            LogCommand::Repair(repair) => repair.run(output),
        }
    }
}

impl Which {
    fn partitions(&self) -> Result<Vec<segment::PartitionDir>, Failure> {
        self.chosen(segment::partitions(&self.dir)?)
    }

    /// Those that were asked for.
    fn chosen(&self, mut found: Vec<segment::PartitionDir>) -> Result<Vec<segment::PartitionDir>, Failure> {
        found.retain(|dir| self.topic.as_ref().is_none_or(|topic| *topic == dir.topic));
        found.retain(|dir| self.partition.is_none_or(|partition| partition == dir.partition));
        if found.is_empty() {
            return Err(Failure::new(
                Exit::NotFound,
                format!("'{}' holds no such partition", self.dir.display()),
            ));
        }
        Ok(found)
    }
}

impl Verify {
    fn run(self, output: Output) -> Result<(), Failure> {
        let is_whole = self.which.topic.is_none() && self.which.partition.is_none();
        let is_whole = is_whole && !segment::is_partition(&self.which.dir);
        let partitions = self.which.partitions()?;
        let surroundings =
            if is_whole { verify::surroundings(&self.which.dir) } else { verify::Surroundings::default() };
        if let Some(unseen) = &surroundings.unseen {
            eprintln!("kappa: '{}': {unseen}", self.which.dir.display());
        }
        let total = partitions.iter().map(|dir| bytes(&dir.path)).sum();
        let bar = progress::bar(total, "bytes checked");
        let mut verified = Vec::with_capacity(partitions.len());
        for dir in partitions {
            let path = dir.path.clone();
            let found = verify::partition(dir, &mut |bytes| bar.inc(bytes));
            verified.push(found.map_err(|error| Failure::file("read", &path, &error))?);
        }
        bar.finish_and_clear();
        let mut general = Vec::new();
        for (name, problem) in surroundings.problems {
            match verified.iter_mut().find(|partition| name.as_deref() == Some(&partition.name())) {
                Some(partition) => partition.problems.push(problem),
                None => general.push(problem),
            }
        }
        output.rows(&verified, "no partitions")?;
        if output == Output::Table {
            verified.iter().flat_map(|partition| &partition.notes).try_for_each(|note| output::line(note))?;
        } else {
            // The rows are partitions; what concerns none of them is told beside them.
            general.iter().for_each(|problem| eprintln!("kappa: {problem}"));
        }
        let problems = verified.iter().flat_map(|partition| &partition.problems).chain(&general);
        let problems: Vec<_> = problems.collect();
        if problems.is_empty() {
            return Ok(());
        }
        if output == Output::Table {
            problems.iter().try_for_each(|problem| output::line(problem))?;
        }
        let plural = if problems.len() == 1 { "problem" } else { "problems" };
        Err(Failure::new(Exit::Unsound, format!("{} {plural} found", problems.len()))
            .cure(
                "a broker that starts on this directory passes over it or refuses to start; `kappa log repair` makes a \
                 copy without it",
            ))
    }
}

/// Bytes of a partition's segments, 0 if they cannot be told: only progress is drawn from it.
fn bytes(dir: &Path) -> u64 {
    let segments = segment::segments(dir).map_or_else(|_| Vec::new(), |segments| segments.found);
    let len =
        |segment: &segment::Segment| std::fs::metadata(&segment.path).map_or(0, |metadata| metadata.len());
    segments.iter().map(len).sum()
}
