//! Prints the batches of partitions, and their records if asked, as they lie on disk.

use super::segment::{self, BatchReader, Found, PartitionDir, ReadError, Segment, Segments};
use crate::{
    error::{Exit, Failure},
    output,
    output::Output,
    record_json::RecordOut,
    timestamp,
};
use kappa_protocol::record::{Batch, TimestampType};
use serde::Serialize;
use std::io::{self, Write};

/// Most bytes that one decompressed batch may take here.
const DECOMPRESSED_BYTES_MAX: usize = 1 << 30;

/// What to print.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Offset of the first record; batches that end before it are left out.
    pub(super) from_offset: i64,
    /// Whether to print the records too.
    pub(super) records: bool,
    /// Lines of text or of JSON.
    pub(super) output: Output,
}

#[derive(Serialize)]
struct BatchLine<'a> {
    topic: &'a str,
    partition: i32,
    segment: i64,
    position: u64,
    base_offset: i64,
    last_offset: i64,
    records: i32,
    bytes: usize,
    compression: String,
    timestamp_type: &'static str,
    max_timestamp: i64,
    leader_epoch: i32,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    transactional: bool,
    control: bool,
    crc: u32,
}

impl<'a> BatchLine<'a> {
    fn new(dir: &'a PartitionDir, segment: i64, position: u64, batch: &Batch<'_>) -> Self {
        Self {
            topic: &dir.topic,
            partition: dir.partition,
            segment,
            position,
            base_offset: batch.base_offset(),
            last_offset: batch.last_offset(),
            records: batch.count(),
            bytes: batch.size(),
            compression: batch.compression().map_or_else(|_| "unknown".to_owned(), |codec| codec.to_string()),
            timestamp_type: match batch.timestamp_type() {
                TimestampType::CreateTime => "create",
                TimestampType::LogAppendTime => "append",
            },
            max_timestamp: batch.max_timestamp(),
            leader_epoch: batch.leader_epoch(),
            producer_id: batch.producer_id(),
            producer_epoch: batch.producer_epoch(),
            base_sequence: batch.base_sequence(),
            transactional: batch.is_transactional(),
            control: batch.is_control(),
            crc: batch.crc(),
        }
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { base_offset, last_offset, records, position, bytes, compression, crc, .. } = self;
        write!(
            out,
            "offsets {base_offset}..{last_offset} records {records} position {position} bytes {bytes}"
        )?;
        write!(
            out,
            " compression {compression} {}-time {}",
            self.timestamp_type,
            timestamp::format(self.max_timestamp)
        )?;
        write!(out, " crc {crc:08x} epoch {}", self.leader_epoch)?;
        if self.producer_id >= 0 {
            let Self { producer_id, producer_epoch, base_sequence, .. } = self;
            write!(out, " producer {producer_id}/{producer_epoch} sequence {base_sequence}")?;
        }
        let flags = [(self.transactional, " transactional"), (self.control, " control")];
        for (_, flag) in flags.iter().filter(|(set, _)| *set) {
            out.write_all(flag.as_bytes())?;
        }
        writeln!(out)
    }
}

/// Prints one partition, or one file of it. Damage ends it with an error, after all that is sound before it; in what
/// recovery cut off, where there is nothing but damage and what lies behind it, it is told and passed over.
pub(super) fn partition(dir: &PartitionDir, wanted: Wanted) -> Result<(), Failure> {
    let mut out = output::stdout();
    let Segments { found: segments, strange } = if dir.path.is_dir() {
        segment::segments(&dir.path).map_err(|error| Failure::file("read", &dir.path, &error))?
    } else {
        Segments { found: vec![segment::single(&dir.path)], strange: None }
    };
    let ends = segments.iter().skip(1).map(|next| next.base_offset).chain([i64::MAX]);
    for (segment, _) in segments.iter().zip(ends).filter(|(_, end)| *end > wanted.from_offset) {
        file(&mut out, dir, segment, wanted)?;
    }
    out.flush().map_err(|error| Failure::output(&error))?;
    strange.map_or(Ok(()), |strange| {
        Err(Failure::new(Exit::Unsound, format!("{}: {strange}", dir.path.display())))
    })
}

fn file(
    out: &mut impl Write,
    dir: &PartitionDir,
    Segment { base_offset: base, path }: &Segment,
    wanted: Wanted,
) -> Result<(), Failure> {
    if wanted.output == Output::Table {
        writeln!(out, "{}", path.display()).map_err(|error| Failure::output(&error))?;
    }
    let unreadable = |error: io::Error| Failure::file("read", path, &error);
    let mut reader = BatchReader::open(path).map_err(|error| Failure::file("open", path, &error))?;
    let mut first_damage = None;
    loop {
        let at = reader.position();
        let (position, damage) = match reader.next() {
            Ok(None) => break,
            Ok(Some(Found { batch, damage: None, .. })) if batch.last_offset() < wanted.from_offset => {
                continue;
            }
            Ok(Some(Found { position, batch, damage: None })) => {
                print(out, dir, *base, position, &batch, wanted)?;
                continue;
            }
            Ok(Some(Found { position, damage: Some(damage), .. })) => (position, damage),
            Err(ReadError::Batch(damage)) => (at, damage),
            Err(ReadError::Io(error)) => return Err(unreadable(error)),
        };
        let failure =
            Failure::new(Exit::Unsound, format!("{}, position {position}: {damage}", path.display()));
        if !segment::is_cut_off(path) {
            return Err(failure);
        }
        first_damage.get_or_insert(failure);
        let found = reader.skip_damage(position, *base).map_err(unreadable)?;
        let end = found.unwrap_or_else(|| reader.len());
        if wanted.output == Output::Table {
            writeln!(out, "no batch from position {position} to {end}: {damage}")
                .map_err(|error| Failure::output(&error))?;
        }
    }
    match first_damage {
        None => Ok(()),
        Some(damage) => {
            out.flush().map_err(|error| Failure::output(&error))?;
            Err(damage)
        }
    }
}

fn print(
    out: &mut impl Write,
    dir: &PartitionDir,
    segment: i64,
    position: u64,
    batch: &Batch<'_>,
    wanted: Wanted,
) -> Result<(), Failure> {
    let line = BatchLine::new(dir, segment, position, batch);
    match wanted.output {
        Output::Table => line.write_text(out),
        Output::Json if wanted.records => Ok(()),
        Output::Json => json(out, &line),
    }
    .map_err(|error| Failure::output(&error))?;
    if !wanted.records {
        return Ok(());
    }
    let body = batch.decode(DECOMPRESSED_BYTES_MAX);
    let body = body.map_err(|error| Failure::new(Exit::Unsound, error.to_string()))?;
    for record in body.iter() {
        let record = record.map_err(|error| Failure::new(Exit::Unsound, error.to_string()))?;
        if record.offset >= wanted.from_offset {
            if wanted.output == Output::Table {
                out.write_all(b"  ").map_err(|error| Failure::output(&error))?;
            }
            json(out, &RecordOut::new(&dir.topic, dir.partition, &record))
                .map_err(|error| Failure::output(&error))?;
        }
    }
    Ok(())
}

fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")
}
