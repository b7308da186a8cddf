//! The disk of the machine: plain files, positional reads and writes, one system call for each where it can be.
//!
//! Invariants: no call is retried into success but for interruption by a signal; under a path that was locked nothing is
//! looked at or changed once another directory is there.

use super::{Disk, Entry, File, Lock, Mapping, platform};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Files of the operating system.
#[derive(Debug, Default)]
pub struct RealDisk {
    /// The directory of the first lock, open from then on. The kernel tells a sync of the file system of the writes that
    /// failed since the file it is asked through was opened: through one just opened, of none.
    watched: OnceLock<Watched>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    directory: fs::File,
    /// Device and inode.
    identity: (u64, u64),
}

impl Watched {
    fn open(path: &Path) -> io::Result<Self> {
        let directory = fs::File::open(path)?;
        let identity = identity(&directory.metadata()?);
        Ok(Self { path: path.into(), directory, identity })
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl RealDisk {
    /// The disk, ready for sharing.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self::default())
    }

    /// A path, unless the directory that was locked is not there any more: what is there is somebody else's.
    fn ours<'a>(&self, path: &'a Path) -> io::Result<&'a Path> {
        let Some(watched) = self.watched.get().filter(|watched| path.starts_with(&watched.path)) else {
            return Ok(path);
        };
        match fs::metadata(&watched.path) {
            Ok(metadata) if identity(&metadata) == watched.identity => Ok(path),
            // Not an absence of the file that is looked for.
            _ => Err(io::Error::other(format!(
                "{} was moved or removed, or something is mounted over it: put it back, or stop the broker",
                watched.path.display()
            ))),
        }
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.ours(path)?)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.ours(path)?)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        fs::metadata(self.ours(path)?).map(|metadata| metadata.size())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.ours(dir)?)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match fs::create_dir(self.ours(dir)?) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            result => result,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.ours(from)?, self.ours(to)?)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.ours(path)?)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(self.ours(dir)?)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(self.ours(dir)?)?.sync_all()
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        match self.watched.get() {
            Some(watched) => platform::sync_file_system(&watched.directory),
            None => platform::sync_file_system(&fs::File::open(path)?),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let directory = fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
        // The directory too: the file may be removed and made again.
        for locked in [&file, &directory] {
            rustix::fs::flock(locked, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        }
        if let (None, Some(directory)) = (self.watched.get(), path.parent()) {
            let _ = self.watched.set(Watched::open(directory)?);
        }
        Ok(Box::new((file, directory)))
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        let facts = rustix::fs::statvfs(path)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
}

impl File for RealFile {
    fn size(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.size())
    }

    fn read_at(&self, position: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        into.reserve_exact(len);
        let before = into.len();
        while into.len() - before < len {
            let at = position + (into.len() - before) as u64;
            // The bytes go into memory that nothing has written to yet, so none is zeroed in vain.
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(into), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // A vector may have had more room than was asked for.
        into.truncate(before + len);
        Ok(into.len() - before)
    }

    fn is_cached(&self, position: u64, len: usize) -> bool {
        platform::is_cached(&self.file, position, len)
    }

    fn read_cached_at(&self, position: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        // Room for the bytes is zeroed first, which costs more than probes where it is large.
        if len <= platform::PROBE_STRIDE as usize {
            return platform::read_cached_at(&self.file, position, len, into);
        }
        match self.is_cached(position, len) {
            true => self.read_at(position, len, into),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn send_at(&self, position: u64, len: usize, socket: BorrowedFd<'_>) -> io::Result<usize> {
        platform::send_at(&self.file, position, len, socket)
    }

    fn write_at(&self, position: u64, parts: [&[u8]; 2]) -> io::Result<()> {
        platform::write_at(&self.file, position, parts)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn map(&self) -> io::Result<Mapping> {
        Mapping::of(&self.file)
    }
}
