//! What only some systems can do, each with a portable fallback that means the same.
//!
//! Invariant: nothing outside this file asks which operating system it is on.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

/// Bytes between two probes of [`is_cached`]: a range is read ahead and evicted in runs at least this long.
pub(super) const PROBE_STRIDE: u64 = 64 * 1024;

/// Whether the range is in the page cache, judged by its first byte, its last byte and one in every 64 KiB.
#[cfg(target_os = "linux")]
pub(super) fn is_cached(file: &File, position: u64, len: usize) -> bool {
    let probe = |at: u64| {
        let mut byte = [0];
        let mut buffers = [io::IoSliceMut::new(&mut byte)];
        // At the end of the file nothing is read and nothing is waited for.
        match rustix::io::preadv2(file, &mut buffers, at, rustix::io::ReadWriteFlags::NOWAIT) {
            Ok(_) => true,
            // A file system that cannot tell must be read the ordinary way.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => true,
            Err(_) => false,
        }
    };
    let Some(last) = (len as u64).checked_sub(1).map(|ahead| position + ahead) else { return true };
    (position..last).step_by(PROBE_STRIDE as usize).all(probe) && probe(last)
}

/// Elsewhere there is no probe: every read is taken for a quick one.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_cached(_file: &File, _position: u64, _len: usize) -> bool {
    true
}

/// Appends up to `len` bytes from `position` to `into`, by one system call where they are all in the page cache.
#[cfg(target_os = "linux")]
pub(super) fn read_cached_at(
    file: &File,
    position: u64,
    len: usize,
    into: &mut Vec<u8>,
) -> io::Result<usize> {
    let before = into.len();
    into.resize(before + len, 0);
    let mut filled = 0;
    let result = loop {
        let rest = into.get_mut(before + filled..).unwrap_or_default();
        if rest.is_empty() {
            break Ok(filled);
        }
        let mut buffers = [io::IoSliceMut::new(rest)];
        let at = position + filled as u64;
        match rustix::io::preadv2(file, &mut buffers, at, rustix::io::ReadWriteFlags::NOWAIT) {
            Ok(0) => break Ok(filled),
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            // A file system that cannot tell must be read the ordinary way.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => match file.read_at(rest, at) {
                Ok(0) => break Ok(filled),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            },
            Err(errno) => break Err(errno.into()),
        }
    };
    into.truncate(before + filled);
    result
}

/// Appends up to `len` bytes from `position` to `into`.
#[cfg(not(target_os = "linux"))]
pub(super) fn read_cached_at(
    file: &File,
    position: u64,
    len: usize,
    into: &mut Vec<u8>,
) -> io::Result<usize> {
    let before = into.len();
    into.resize(before + len, 0);
    let mut filled = 0;
    while filled < len {
        match file.read_at(into.get_mut(before + filled..).unwrap_or_default(), position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                into.truncate(before + filled);
                return Err(error);
            }
        }
    }
    into.truncate(before + filled);
    Ok(filled)
}

/// Sends bytes of the file to a socket without a copy of them in between.
#[cfg(target_os = "linux")]
pub(super) fn send_at(file: &File, position: u64, len: usize, socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut from = position;
    loop {
        match rustix::fs::sendfile(socket, file, Some(&mut from), len) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Sends bytes of the file to a socket.
#[cfg(not(target_os = "linux"))]
pub(super) fn send_at(file: &File, position: u64, len: usize, socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes = vec![0; len.min(super::COPIED_BYTES_MAX)];
    let read = file.read_at(&mut bytes, position)?;
    Ok(rustix::io::write(socket, bytes.get(..read).unwrap_or_default())?)
}

/// Writes both parts at `position`, by one system call unless the kernel takes fewer bytes.
#[cfg(target_os = "linux")]
pub(super) fn write_at(file: &File, position: u64, [first, second]: [&[u8]; 2]) -> io::Result<()> {
    let written = loop {
        match rustix::io::pwritev(file, &[io::IoSlice::new(first), io::IoSlice::new(second)], position) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    let rest_of_first = first.get(written..).unwrap_or_default();
    let rest_of_second = second.get(written.saturating_sub(first.len())..).unwrap_or_default();
    let position = position + written as u64;
    file.write_all_at(rest_of_first, position)?;
    file.write_all_at(rest_of_second, position + rest_of_first.len() as u64)
}

/// Writes both parts at `position`, one after the other.
#[cfg(not(target_os = "linux"))]
pub(super) fn write_at(file: &File, position: u64, [first, second]: [&[u8]; 2]) -> io::Result<()> {
    file.write_all_at(first, position)?;
    file.write_all_at(second, position + first.len() as u64)
}

/// Makes everything durable that the file system of `file` was given.
#[cfg(target_os = "linux")]
pub(super) fn sync_file_system(file: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

/// Has every file system of the machine write what it was given.
#[cfg(not(target_os = "linux"))]
pub(super) fn sync_file_system(_file: &File) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}
