//! The least broker that a driver of ours cannot tell from a real one: what no broker can beat by much.
//!
//! A thread per connection reads a frame, checks the batch's CRC, patches its base offset, appends it to one file and
//! answers; a fetch is a `sendfile` of the batches at the offset's place (all batches of a run are equally long).
//! It knows exactly the frames of [`super::driver`], one topic with one partition, and no errors.

use kappa_protocol::record::{Batch, patched_prefix};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long a fetch waits at the end of the log.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// One partition in one file.
#[derive(Debug)]
struct Log {
    file: File,
    next_offset: i64,
    len: u64,
    batch_len: u64,
    batch_records: i64,
}

/// The log and what wakes a fetch that waits at its end.
#[derive(Debug)]
struct Shared {
    log: Mutex<Log>,
    appended: Condvar,
}

/// Whether each append is synced before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Never, as Kafka by default.
    Never,
    /// Every batch in its handler.
    EachBatch,
}

/// The child's side.
pub(crate) fn serve(sync: Sync) {
    let directory = tempfile::tempdir_in(super::directory()).expect("a directory for the data");
    let path = directory.path().join("log");
    let file =
        File::options().create(true).truncate(true).read(true).write(true).open(path).expect("a log file");
    let log = Mutex::new(Log { file, next_offset: 0, len: 0, batch_len: 1, batch_records: 1 });
    let shared = Arc::new(Shared { log, appended: Condvar::new() });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || connection(stream, &shared, sync));
        }
    });
    super::server::serve(address);
}

fn connection(mut stream: TcpStream, shared: &Shared, sync: Sync) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut frame = Vec::new();
    loop {
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix)?;
        frame.resize(u32::from_be_bytes(prefix) as usize, 0);
        stream.read_exact(&mut frame)?;
        match i16::from_be_bytes(at(&frame, 0)) {
            0 => produce(&mut stream, shared, &frame, sync)?,
            _ => fetch(&mut stream, shared, &frame)?,
        }
    }
}

fn at<const N: usize>(bytes: &[u8], position: usize) -> [u8; N] {
    bytes.get(position..position + N).and_then(|b| b.try_into().ok()).expect("the driver's frame")
}

fn produce(stream: &mut TcpStream, shared: &Shared, frame: &[u8], sync: Sync) -> io::Result<()> {
    let records = frame.get(super::driver::PRODUCE_RECORDS_AT..).expect("the driver's frame");
    let batch = Batch::produced(records).expect("the driver's batch");
    let base_offset = {
        let mut log = shared.log.lock().expect("no handler panics");
        let base_offset = log.next_offset;
        let prefix = patched_prefix(records, base_offset, 0);
        let body = records.get(16..).expect("longer than its prefix");
        write_all_at(&log.file, log.len, &prefix, body)?;
        if sync == Sync::EachBatch {
            log.file.sync_data()?;
        }
        log.len += records.len() as u64;
        log.batch_len = records.len() as u64;
        log.batch_records = i64::from(batch.count());
        log.next_offset += i64::from(batch.count());
        base_offset
    };
    shared.appended.notify_all();
    stream.write_all(&super::driver::produce_response(at(frame, 4), base_offset))
}

fn write_all_at(file: &File, position: u64, prefix: &[u8], body: &[u8]) -> io::Result<()> {
    let parts = [io::IoSlice::new(prefix), io::IoSlice::new(body)];
    let written = rustix::io::pwritev(file, &parts, position)?;
    let rest = body.get(written.saturating_sub(prefix.len())..).unwrap_or_default();
    file.write_all_at(rest, position + written as u64)
}

fn fetch(stream: &mut TcpStream, shared: &Shared, frame: &[u8]) -> io::Result<()> {
    let offset = i64::from_be_bytes(at(frame, super::driver::FETCH_OFFSET_AT));
    let max = u64::from(u32::from_be_bytes(at(frame, super::driver::FETCH_MAX_BYTES_AT)));
    let (file, position, end, high_watermark) = {
        let log = shared.log.lock().expect("no handler panics");
        let at_end = |log: &mut Log| log.next_offset <= offset;
        let (log, _) = shared.appended.wait_timeout_while(log, MAX_WAIT, at_end).expect("no handler panics");
        let position = (offset / log.batch_records) as u64 * log.batch_len;
        let whole = (max / log.batch_len).max(1) * log.batch_len;
        (log.file.try_clone()?, position, log.len.min(position + whole), log.next_offset)
    };
    let len = end - position;
    stream.write_all(&super::driver::fetch_response_head(at(frame, 4), high_watermark, len as u32))?;
    let mut from = position;
    while from < end {
        let left = (end - from) as usize;
        rustix::fs::sendfile(&stream, &file, Some(&mut from), left)?;
    }
    Ok(())
}
