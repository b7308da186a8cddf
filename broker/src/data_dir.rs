//! The data directory as a whole: is it ours, is it free, what is its identity.
//!
//! Invariant: a directory that is not ours is not touched, not even by a lock file. Knows nothing of what the
//! partitions' directories hold.

use crate::disk::{Disk, Lock};
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Kafka's file of a data directory's identity; ours has [`MARKER`] in it.
const META_FILE: &str = "meta.properties";
/// The lock file of a running broker, as in Kafka.
const LOCK_FILE: &str = ".lock";
/// The key that tells our directories from Kafka's, and the version of their layout.
const MARKER: &str = "kappa.layout";
/// The layout written by this version.
const LAYOUT: &str = "2";
/// The layout before, whose checkpoints were Kafka's files. It becomes the other once ours are written.
const LAYOUT_1: &str = "1";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Something else lives there.
    #[error(
        "{} holds {found:?} and no {META_FILE} of Kappa: it is not a data directory of ours and was left as it is; \
         choose an empty or new directory with --data-dir", path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something that is in it.
        found: String,
    },
    /// Apache Kafka, or another layout of ours.
    #[error("{} {reason}; it was left as it is; choose another directory with --data-dir", path.display())]
    Layout {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It was made with another `node.id`.
    #[error("{} belongs to node.id={found}, not {wanted}: start with --set node.id={found}", path.display())]
    NodeId {
        /// The directory.
        path: PathBuf,
        /// The directory's.
        found: String,
        /// The configuration's.
        wanted: i32,
    },
    /// Another broker runs there.
    #[error("another broker is using {}: stop it, or choose another directory with --data-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The disk failed.
    #[error("data directory {}: {source}", path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// A data directory that is ours alone for as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    /// Id of the cluster, given when the directory was made.
    pub(crate) cluster_id: Arc<str>,
    /// Whether it still has the layout before this one.
    pub(crate) is_layout_1: bool,
    path: PathBuf,
    _lock: Lock,
}

impl DataDir {
    /// Takes the directory, making it if it is new or empty.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, node_id: i32) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Disk { path: path.into(), source };
        create_all(disk, path).map_err(failed)?;
        let is_new = check(disk, path, node_id)?.is_none();
        let lock = disk.lock(&path.join(LOCK_FILE)).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => DataDirError::InUse { path: path.into() },
            _ => failed(source),
        })?;
        let existing = check(disk, path, node_id)?;
        let (cluster_id, is_layout_1) = match existing {
            Some(Identity { cluster_id, is_layout_1 }) => (cluster_id, is_layout_1),
            None => (initialize(disk, path, node_id).map_err(failed)?, false),
        };
        if is_new {
            tracing::info!(path = %path.display(), %cluster_id, "new data directory");
        }
        Ok(Self { cluster_id: cluster_id.into(), is_layout_1, path: path.into(), _lock: lock })
    }

    /// Says that the directory has the present layout. Versions before it refuse it from then on.
    pub(crate) fn upgrade(&mut self, disk: &dyn Disk) -> Result<(), DataDirError> {
        let failed = |source| DataDirError::Disk { path: self.path.clone(), source };
        let meta = self.path.join(META_FILE);
        let text = String::from_utf8_lossy(&disk.read(&meta).map_err(failed)?).into_owned();
        let text = text.replace(&format!("{MARKER}={LAYOUT_1}\n"), &format!("{MARKER}={LAYOUT}\n"));
        disk.replace(&meta, text.as_bytes()).map_err(failed)?;
        self.is_layout_1 = false;
        Ok(())
    }
}

/// Keeps brokers out of a directory that is ours, and changes nothing of it, for as long as what is returned lives.
pub(crate) fn hold(disk: &dyn Disk, path: &Path) -> Result<Lock, DataDirError> {
    match check(disk, path, i32::MIN) {
        Ok(None) => {
            return Err(DataDirError::Foreign { path: path.into(), found: "nothing".into() });
        }
        // Whichever node's it is.
        Ok(Some(_)) | Err(DataDirError::NodeId { .. }) => {}
        Err(error) => return Err(error),
    }
    disk.lock(&path.join(LOCK_FILE)).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => DataDirError::InUse { path: path.into() },
        _ => DataDirError::Disk { path: path.into(), source },
    })
}

/// Gives a copy of a directory the identity of the original, durably: from here on it is a data directory.
pub(crate) fn copy_identity(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    disk.replace(&to.join(META_FILE), &disk.read(&from.join(META_FILE))?)
}

/// What a directory of ours says of itself.
struct Identity {
    cluster_id: String,
    is_layout_1: bool,
}

fn create_all(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || disk.list(path).is_ok() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_all(disk, parent)?;
    }
    disk.create_dir(path)
}

/// Makes durable the names that lead to the directory: this start may have made them, or one that was cut short.
fn sync_path(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    for dir in path.ancestors().skip(1) {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        match disk.sync_dir(dir) {
            // What may not be read is not ours, nor is what lies above it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            synced => synced?,
        }
    }
    Ok(())
}

/// The identity of a directory of ours; `None` for an empty one.
fn check(disk: &dyn Disk, path: &Path, node_id: i32) -> Result<Option<Identity>, DataDirError> {
    let failed = |source| DataDirError::Disk { path: path.into(), source };
    let entries = disk.list(path).map_err(failed)?;
    if !entries.iter().any(|entry| entry.name == META_FILE) {
        // A start that was cut short leaves these behind.
        let leftovers = [LOCK_FILE, "meta.properties.tmp", "lost+found"];
        return match entries.into_iter().find(|entry| !leftovers.contains(&entry.name.as_str())) {
            Some(entry) => Err(DataDirError::Foreign { path: path.into(), found: entry.name }),
            None => Ok(None),
        };
    }
    let bytes = disk.read(&path.join(META_FILE)).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim().to_owned())
    };
    let layout = |reason: String| DataDirError::Layout { path: path.into(), reason };
    let is_layout_1 = match value(MARKER).as_deref() {
        None if value("version").is_none() || value("cluster.id").is_none() => {
            return Err(layout(format!(
                "has a damaged {META_FILE}: put back the one of a backup, or write the lines version=1, {MARKER}={LAYOUT}, \
                 node.id=N and cluster.id=ANY-TEXT into it"
            )));
        }
        None => return Err(layout("is a data directory of Apache Kafka".into())),
        Some(LAYOUT) => false,
        Some(LAYOUT_1) => true,
        Some(found) => {
            return Err(layout(format!("has layout {found}, this version reads {LAYOUT_1} and {LAYOUT}")));
        }
    };
    let found = value("node.id").ok_or_else(|| layout(format!("has a {META_FILE} without node.id")))?;
    if found != node_id.to_string() {
        return Err(DataDirError::NodeId { path: path.into(), found, wanted: node_id });
    }
    let cluster_id =
        value("cluster.id").ok_or_else(|| layout(format!("has a {META_FILE} without cluster.id")))?;
    Ok(Some(Identity { cluster_id, is_layout_1 }))
}

fn initialize(disk: &dyn Disk, path: &Path, node_id: i32) -> io::Result<String> {
    sync_path(disk, path)?;
    let cluster_id = base64(Uuid::new_v4());
    let mut text = String::from("# identity of a Kappa data directory\n");
    let _ = write!(
        text,
        "version=1\n{MARKER}={LAYOUT}\nnode.id={node_id}\ncluster.id={cluster_id}\ndirectory.id={}\n",
        base64(Uuid::new_v4())
    );
    disk.replace(&path.join(META_FILE), text.as_bytes())?;
    Ok(cluster_id)
}

/// A UUID as Kafka writes it: URL-safe base64 without padding. A leading dash, which would look like a flag, is avoided.
fn base64(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    let sextet = |index: u32| if index < 21 { bits >> (122 - 6 * index) } else { bits << 4 };
    let text: String = (0..22)
        .filter_map(|index| ALPHABET.get((sextet(index) & 63) as usize))
        .map(|byte| char::from(*byte))
        .collect();
    if text.starts_with('-') { base64(Uuid::new_v4()) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fault, Operation, RealDisk, SimulatedDisk};

    #[test]
    fn a_foreign_directory_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
        let error = DataDir::open(&RealDisk::default(), dir.path(), 1).unwrap_err();
        assert!(error.to_string().contains("thesis.txt"), "{error}");
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["thesis.txt"]);
    }

    #[test]
    fn a_new_directory_is_durable_though_its_first_start_was_cut_short() {
        for after in 0..3 {
            let disk = SimulatedDisk::new(1);
            let (path, error) = (Path::new("/a/b"), io::ErrorKind::Other);
            let operation = Operation::SyncDir;
            disk.inject(Fault { operation, path_contains: String::new(), after, times: 1, error });
            assert!(DataDir::open(&disk, path, 1).is_err(), "{after}");
            let cluster_id = DataDir::open(&disk, path, 1).unwrap().cluster_id;
            let disk = disk.power_cut();
            assert_eq!(DataDir::open(&disk, path, 1).unwrap().cluster_id, cluster_id, "{after}");
        }
    }

    #[test]
    fn a_directory_of_apache_kafka_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let meta = "version=1\nnode.id=1\ncluster.id=abc\n";
        std::fs::write(dir.path().join(META_FILE), meta).unwrap();
        let error = DataDir::open(&RealDisk::default(), dir.path(), 1).unwrap_err();
        assert!(error.to_string().contains("Apache Kafka"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_identity_is_called_that() {
        let (disk, path): (&dyn Disk, _) = (&SimulatedDisk::new(1), Path::new("/data"));
        drop(DataDir::open(disk, path, 1).unwrap());
        let meta = path.join(META_FILE);
        let whole = disk.read(&meta).unwrap();
        let zeros = vec![0; whole.len()];
        for damaged in [&whole[..0], &whole[..20], &zeros] {
            disk.replace(&meta, damaged).unwrap();
            let error = DataDir::open(disk, path, 1).unwrap_err();
            assert!(error.to_string().contains("damaged meta.properties"), "{error}");
        }
        disk.replace(&meta, b"version=1\nkappa.layout=2\nnode.id=1\ncluster.id=new\n").unwrap();
        assert_eq!(&*DataDir::open(disk, path, 1).unwrap().cluster_id, "new");
    }

    #[test]
    fn the_identity_stays_and_a_second_owner_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let disk = RealDisk::default();
        let first = DataDir::open(&disk, &path, 1).unwrap();
        assert!(matches!(DataDir::open(&disk, &path, 1), Err(DataDirError::InUse { .. })));
        let cluster_id = first.cluster_id.clone();
        assert_eq!(cluster_id.len(), 22);
        drop(first);
        assert_eq!(DataDir::open(&disk, &path, 1).unwrap().cluster_id, cluster_id);
        assert!(matches!(DataDir::open(&disk, &path, 2), Err(DataDirError::NodeId { .. })));
    }
}
