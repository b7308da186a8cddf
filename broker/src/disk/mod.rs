//! Files and directories: the only way by which the broker reaches a disk.
//!
//! Two disks stand behind the traits: [`RealDisk`], and [`SimulatedDisk`], which keeps everything in memory, loses
//! and tears what was not synced, fails on demand and fills up. Both promise only what a file system promises: bytes
//! are durable after [`File::sync_data`], names after [`Disk::sync_dir`] of the directory that holds them.
//! Invariant: whatever is above names paths and positions, never file descriptors, and cannot tell the disks apart.
//! This module knows nothing of logs, segments or indexes.

#[cfg(test)]
mod calling;
mod mapping;
mod platform;
mod real;
mod simulated;

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

#[cfg(test)]
pub(crate) use calling::{CallingDisk, Trap};
pub use mapping::Mapping;
pub use real::RealDisk;
pub use simulated::{Fault, Operation, SimulatedDisk};

/// Bytes that are copied at once where a file cannot be sent without.
const COPIED_BYTES_MAX: usize = 64 * 1024;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The last component of the path; names that are not UTF-8 are left out of listings.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// An exclusive hold on a path, given up when dropped.
pub type Lock = Box<dyn Debug + Send + Sync>;

/// Directories and the names in them.
pub trait Disk: Debug + Send + Sync {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Creates a file, or empties the one that is there, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Length of a file in bytes.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// The names in a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Creates a directory; one that is there already is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Gives a file or directory another name, replacing a file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name; open handles and mappings stay usable.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable: creations, renames and removals.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes everything on the file system of `path` durable: bytes, lengths and names. After an error, nothing that was
    /// written since it was last synced may be counted on. Errors are told from the first [`Disk::lock`] on.
    fn sync_file_system(&self, path: &Path) -> io::Result<()>;
    /// Takes an exclusive lock on a path, creating the file; [`io::ErrorKind::WouldBlock`] if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
    /// Bytes that can still be written to the file system of `path`.
    fn available_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file. Positions are bytes from its start; calls may come from several threads.
pub trait File: Debug + Send + Sync {
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Appends up to `len` bytes from `position` to `into` and returns how many; fewer only at the end of the file.
    fn read_at(&self, position: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize>;
    /// Whether reading the range would, as far as can be told cheaply, not wait for the device.
    fn is_cached(&self, position: u64, len: usize) -> bool;
    /// The same as [`File::read_at`], but [`io::ErrorKind::WouldBlock`] if the device would have to be waited for; `into`
    /// may then have some of the bytes.
    fn read_cached_at(&self, position: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        match self.is_cached(position, len) {
            true => self.read_at(position, len, into),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
    /// Sends up to `len` bytes from `position` to a nonblocking socket and returns how many; none only at the end of the
    /// file. [`io::ErrorKind::WouldBlock`] if the socket takes none. Waits for the device where [`File::is_cached`] says no.
    fn send_at(&self, position: u64, len: usize, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut bytes = Vec::new();
        self.read_at(position, len.min(COPIED_BYTES_MAX), &mut bytes)?;
        Ok(rustix::io::write(socket, &bytes)?)
    }
    /// Writes all of `parts`, one after the other, at `position`. After an error any of the bytes may be there.
    fn write_at(&self, position: u64, parts: [&[u8]; 2]) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable. After an error, what was written since the last success must be
    /// taken for lost, whatever a later call says.
    fn sync_data(&self) -> io::Result<()>;
    /// The whole file for reading. The file must not be cut or written to while the mapping lives.
    fn map(&self) -> io::Result<Mapping>;
}

/// A file as what a region of it names.
#[derive(Clone, Debug)]
pub struct OpenFile(pub Arc<dyn File>);

impl dyn Disk + '_ {
    /// The whole content of a small file.
    ///
    /// # Errors
    /// Whatever opening or reading says.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let len = usize::try_from(file.size()?).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(len);
        file.read_at(0, len, &mut bytes)?;
        Ok(bytes)
    }

    /// The whole content of a small file; `None` if there is no such file.
    ///
    /// # Errors
    /// Whatever opening or reading says but that: a file that cannot be read is not a file that is not there.
    pub fn read_if_there(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        if_there(self.read(path))
    }

    /// The names in a directory; `None` if there is no such directory.
    ///
    /// # Errors
    /// Whatever the listing says but that.
    pub fn list_if_there(&self, dir: &Path) -> io::Result<Option<Vec<Entry>>> {
        if_there(self.list(dir))
    }

    /// The length of a file in bytes; `None` if there is no such file.
    ///
    /// # Errors
    /// Whatever the look at it says but that.
    pub fn len_if_there(&self, path: &Path) -> io::Result<Option<u64>> {
        if_there(self.len(path))
    }

    /// Puts `bytes` in the place of a file's content: durable when it returns, and after a crash either the old
    /// content or the new is there, whole.
    ///
    /// # Errors
    /// Whatever writing, syncing or renaming says; the old content is then still there.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary =
            path.with_extension(match path.extension().and_then(|extension| extension.to_str()) {
                Some(extension) => format!("{extension}.tmp"),
                None => "tmp".to_owned(),
            });
        let file = self.create(&temporary)?;
        file.write_at(0, [bytes, &[]])?;
        file.sync_data()?;
        self.rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| self.sync_dir(dir))
    }

    /// Removes a directory and everything in it.
    ///
    /// # Errors
    /// The first removal that fails; what was removed stays removed.
    pub fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        for entry in self.list(dir)? {
            let path = dir.join(&entry.name);
            if entry.is_dir { self.remove_dir_all(&path)? } else { self.remove_file(&path)? }
        }
        self.remove_dir(dir)
    }

    /// Removes a file; one that is not there is fine.
    ///
    /// # Errors
    /// Whatever the removal says.
    pub fn remove_file_if_there(&self, path: &Path) -> io::Result<()> {
        if_there(self.remove_file(path)).map(|_| ())
    }
}

/// Tells what is not there from what cannot be had.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
