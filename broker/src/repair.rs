//! Repairing a data directory: a copy of it that a broker starts on, made offline, with what is lost told.
//!
//! Invariant: the original is only read, and locked so that no broker changes it meanwhile; the copy gets its identity
//! last, so that one that is not whole is nobody's data directory.

use crate::clock::Clock;
use crate::data_dir::{DataDirError, copy_identity, hold};
use crate::disk::RealDisk;
use crate::flush::FlushQueue;
use crate::journal::Journal;
use crate::log::EpochFloor;
use crate::partition::PartitionEnv;
use crate::topic::{self, OpenError};
use std::io;
use std::path::{Path, PathBuf};

pub use crate::topic::{Finding, Kept, Repaired};

/// Why a data directory was not repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// It is no data directory of ours, or a broker runs on it.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The place of the copy is taken.
    #[error("{} is there already: name a directory that is not", .0.display())]
    Occupied(PathBuf),
    /// The place of the copy is in the original.
    #[error("{} is within the data directory, which is only read: name a directory beside it", .0.display())]
    Within(PathBuf),
    /// The disk failed.
    #[error("{}: {source}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// What was found cannot be put in order.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Whether a path that may not be there yet leads into a directory.
fn is_within(path: &Path, dir: &Path) -> bool {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (parent.canonicalize(), dir.canonicalize()) {
        (Ok(parent), Ok(dir)) => parent.starts_with(dir),
        _ => false,
    }
}

/// Looks at a data directory and says what is wrong with it and what a repair would leave; with `to` it also makes the
/// repaired copy there. Blocks on the disk.
///
/// # Errors
/// [`RepairError`]. The original is as it was; what there is of a copy is no data directory.
pub fn repair(data_dir: &Path, to: Option<&Path>) -> Result<Repaired, RepairError> {
    let disk = RealDisk::shared();
    let _lock = hold(&*disk, data_dir)?;
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| RepairError::Disk { path, source }
    };
    if let Some(to) = to {
        if is_within(to, data_dir) {
            return Err(RepairError::Within(to.into()));
        }
        if disk.list_if_there(to).map_err(failed(to))?.is_some() {
            return Err(RepairError::Occupied(to.into()));
        }
        disk.create_dir(to).map_err(failed(to))?;
    }
    let (journal, unreadable) = Journal::survey(&*disk, data_dir).map_err(OpenError::from)?;
    let env = PartitionEnv {
        disk: disk.clone(),
        clock: Clock::System,
        flush: FlushQueue::new(Clock::System),
        producers: std::sync::Arc::default(),
    };
    let mut repaired = topic::repair(&env, data_dir, to, journal)?;
    repaired.findings.extend(unreadable.into_iter().map(|error| {
        Finding {
            path: "journal".into(),
            found: format!("{error}: {}", error.source),
            done: "what of it can be read is used".into(),
            lost:
                "the rest: what was acknowledged just before the end and had not reached the segments' files"
                    .into(),
        }
    }));
    match EpochFloor::read(&*disk, data_dir, false) {
        Ok(mut floor) => to.map_or(Ok(()), |to| floor.make_durable(&*disk, to)).map_err(OpenError::from)?,
        Err(error) => repaired.findings.push(Finding {
            path: "kappa-leader-epoch".into(),
            found: format!("{error}: {}", error.source),
            done: "left out: each log goes on from its own leader epoch".into(),
            lost: "consumers may not notice that records which were never synced are gone".into(),
        }),
    }
    if let Some(to) = to {
        disk.sync_file_system(to).map_err(failed(to))?;
        copy_identity(&*disk, data_dir, to).map_err(failed(to))?;
    }
    Ok(repaired)
}
