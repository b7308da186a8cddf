//! A disk that calls back before its operations: for what others do meanwhile, and for panics.

use super::{Disk, Entry, File, Lock, Mapping, Operation};
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is called before an operation of the disk.
type Before = Arc<dyn Fn(Operation, &Path) + Send + Sync>;

/// A disk that calls back first.
#[derive(Clone)]
pub(crate) struct CallingDisk {
    disk: Arc<dyn Disk>,
    before: Before,
}

/// Panics once at an operation of a kind on a path, when it was set.
#[derive(Clone, Default)]
pub(crate) struct Trap(Arc<Mutex<Option<(Operation, &'static str)>>>);

impl Trap {
    /// A disk with this trap in it.
    pub(crate) fn on(&self, disk: impl Disk + 'static) -> CallingDisk {
        let trap = self.0.clone();
        CallingDisk::new(Arc::new(disk), move |operation, path| {
            let mut trap = trap.lock();
            let is_it = |(meant, part): &(Operation, &str)| {
                *meant == operation && path.to_string_lossy().contains(part)
            };
            if trap.as_ref().is_some_and(is_it) {
                *trap = None;
                drop(trap);
                panic!("the trap of this test");
            }
        })
    }

    /// Sets it.
    pub(crate) fn set(&self, operation: Operation, path_contains: &'static str) {
        *self.0.lock() = Some((operation, path_contains));
    }

    /// Whether nothing has stepped into it since.
    pub(crate) fn is_set(&self) -> bool {
        self.0.lock().is_some()
    }
}

struct CallingFile {
    file: Arc<dyn File>,
    path: PathBuf,
    before: Before,
}

impl std::fmt::Debug for CallingDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.disk.fmt(f)
    }
}

impl std::fmt::Debug for CallingFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl CallingDisk {
    /// `disk`, with `before` called before what may fail.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        before: impl Fn(Operation, &Path) + Send + Sync + 'static,
    ) -> Self {
        Self { disk, before: Arc::new(before) }
    }

    fn file(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(CallingFile { file, path: path.to_owned(), before: self.before.clone() })
    }
}

impl Disk for CallingDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        (self.before)(Operation::Open, path);
        Ok(self.file(path, self.disk.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        (self.before)(Operation::Create, path);
        Ok(self.file(path, self.disk.create(path)?))
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.disk.len(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.before)(Operation::Rename, from);
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        (self.before)(Operation::Remove, path);
        self.disk.remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        (self.before)(Operation::SyncDir, dir);
        self.disk.sync_dir(dir)
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        (self.before)(Operation::SyncFileSystem, path);
        self.disk.sync_file_system(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.disk.lock(path)
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.available_bytes(path)
    }
}

impl File for CallingFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, position: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        (self.before)(Operation::Read, &self.path);
        self.file.read_at(position, len, into)
    }

    fn is_cached(&self, position: u64, len: usize) -> bool {
        self.file.is_cached(position, len)
    }

    fn write_at(&self, position: u64, parts: [&[u8]; 2]) -> io::Result<()> {
        (self.before)(Operation::Write, &self.path);
        self.file.write_at(position, parts)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        (self.before)(Operation::SetLen, &self.path);
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.before)(Operation::SyncData, &self.path);
        self.file.sync_data()
    }

    fn map(&self) -> io::Result<Mapping> {
        self.file.map()
    }
}
