//! Checks the segments of partitions from their bytes alone and says what does not hold.
//!
//! Invariant: nothing is changed. The log is the evidence and is checked first: order of offsets, checksums, every
//! record of every batch. An index is only compared with it; damage there costs a rebuild, not data.

use super::segment::{self, BatchReader, Found, PartitionDir, ReadError, Segment, Segments};
use crate::output::{Column, Row, grouped};
use kappa_protocol::record::Batch;
use serde::Serialize;
use std::{io, path::Path};

/// Most bytes that one decompressed batch may take here.
const DECOMPRESSED_BYTES_MAX: usize = 1 << 30;

/// What was found in one partition.
#[derive(Debug, Serialize)]
pub(super) struct Verified {
    topic: String,
    partition: i32,
    segments: usize,
    batches: u64,
    records: u64,
    bytes: u64,
    start_offset: i64,
    end_offset: i64,
    /// What is worth knowing and no damage, in words.
    pub(super) notes: Vec<String>,
    /// What does not hold, in words.
    pub(super) problems: Vec<String>,
    /// Whether a segment could not be read to its end, so that its indexes cannot be judged.
    #[serde(skip)]
    torn: bool,
}

impl Verified {
    /// The name of the partition's directory.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }
}

/// What a data directory holds beside the segments: what a broker checks before it starts.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// What does not hold, by the partition's directory that it concerns, or of none.
    pub(super) problems: Vec<(Option<String>, String)>,
    /// Why it was not looked at, if it was not.
    pub(super) unseen: Option<String>,
}

/// Looks at what is beside the segments of a data directory. What concerns the segments themselves is left out.
pub(super) fn surroundings(dir: &Path) -> Surroundings {
    let repaired = match kappa_broker::repair(dir, None) {
        Ok(repaired) => repaired,
        Err(kappa_broker::RepairError::DataDir(kappa_broker::DataDirError::InUse { .. })) => {
            let unseen = "a broker runs on it: only segments were checked, and what it writes meanwhile can look like a \
                          torn end; stop it for a sure answer";
            return Surroundings { unseen: Some(unseen.to_owned()), ..Surroundings::default() };
        }
        Err(error) => {
            return Surroundings { problems: vec![(None, error.to_string())], ..Surroundings::default() };
        }
    };
    let is_segment = |path: &str| path.ends_with(".log") || path.ends_with("next-segment");
    let findings = repaired.findings.into_iter().filter(|finding| !is_segment(&finding.path));
    let problems = findings.map(|finding| {
        let partition = finding.path.split('/').next().filter(|name| dir.join(name).is_dir());
        (partition.map(str::to_owned), format!("{}: {}", finding.path, finding.found))
    });
    Surroundings { problems: problems.collect(), unseen: None }
}

impl Row for Verified {
    const COLUMNS: &'static [Column] = &[
        Column::Text("PARTITION"),
        Column::Number("SEGMENTS"),
        Column::Number("BATCHES"),
        Column::Number("RECORDS"),
        Column::Number("BYTES"),
        Column::Number("FIRST IN FILES"),
        Column::Number("END"),
        Column::Text("STATE"),
    ];

    fn cells(&self) -> Vec<String> {
        let state = match self.problems.len() {
            0 => "sound".to_owned(),
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        vec![
            format!("{}-{}", self.topic, self.partition),
            self.segments.to_string(),
            grouped(self.batches),
            grouped(self.records),
            grouped(self.bytes),
            self.start_offset.to_string(),
            self.end_offset.to_string(),
            state,
        ]
    }
}

/// Reads a whole partition. `each_bytes` is told of the bytes read, for progress.
pub(super) fn partition(dir: PartitionDir, each_bytes: &mut dyn FnMut(u64)) -> io::Result<Verified> {
    let Segments { found: segments, strange } = segment::segments(&dir.path)?;
    let start_offset = segments.first().map_or(0, |first| first.base_offset);
    let mut found = Verified {
        topic: dir.topic,
        partition: dir.partition,
        segments: segments.len(),
        batches: 0,
        records: 0,
        bytes: 0,
        start_offset,
        end_offset: start_offset,
        notes: Vec::new(),
        problems: Vec::new(),
        torn: false,
    };
    for Segment { base_offset: base, path } in segments {
        if base < found.end_offset {
            found
                .problems
                .push(format!("segment {base} begins below {}, the end before it", found.end_offset));
        }
        if base > found.end_offset {
            let Verified { topic, partition, end_offset: end, .. } = &found;
            found.notes.push(format!(
                "{topic}-{partition}: no record of offsets {end} to {} before segment {base}",
                base - 1
            ));
        }
        found.end_offset = found.end_offset.max(base);
        let extents = found.log(&path, base, each_bytes)?;
        if !found.torn {
            found.indexes(&dir.path, base, &extents)?;
        }
    }
    found.problems.extend(strange);
    Ok(found)
}

/// Where a batch lies in its segment, and what it spans.
struct Extent {
    position: u64,
    base_offset: i64,
    last_offset: i64,
    max_timestamp: i64,
}

impl Verified {
    /// Checks the batches of a segment and says where they lie; those behind bytes that are no batch are unknown.
    fn log(&mut self, path: &Path, base: i64, each_bytes: &mut dyn FnMut(u64)) -> io::Result<Vec<Extent>> {
        let mut extents = Vec::new();
        let mut reader = BatchReader::open(path)?;
        self.bytes += reader.len();
        loop {
            let at = reader.position();
            let Found { position, batch, damage } = match reader.next() {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(extents),
                Err(ReadError::Io(error)) => return Err(error),
                Err(ReadError::Batch(error)) => {
                    self.problems.push(format!("segment {base}, position {at}: {error}"));
                    self.torn = true;
                    return Ok(extents);
                }
            };
            match damage {
                None => self.batch(base, position, &batch),
                Some(damage) => self.problems.push(format!("segment {base}, position {position}: {damage}")),
            }
            each_bytes(batch.size() as u64);
            extents.push(Extent {
                position,
                base_offset: batch.base_offset(),
                last_offset: batch.last_offset(),
                max_timestamp: batch.max_timestamp(),
            });
        }
    }

    fn batch(&mut self, base: i64, position: u64, batch: &Batch<'_>) {
        let mut problem =
            |what: String| self.problems.push(format!("segment {base}, position {position}: {what}"));
        if batch.base_offset() < self.end_offset {
            problem(format!("offset {} follows {}", batch.base_offset(), self.end_offset - 1));
        }
        match batch.decode(DECOMPRESSED_BYTES_MAX) {
            Err(error) => problem(error.to_string()),
            Ok(body) => {
                for record in body.iter() {
                    match record {
                        Ok(_) => self.records += 1,
                        Err(error) => problem(error.to_string()),
                    }
                }
            }
        }
        self.batches += 1;
        self.end_offset = self.end_offset.max(batch.next_offset());
    }

    fn indexes(&mut self, dir: &Path, base: i64, extents: &[Extent]) -> io::Result<()> {
        let mut previous = None;
        for entry in segment::offset_index(&segment::file(dir, base, "index"), base)? {
            let batch = extents.binary_search_by_key(&entry.position, |extent| extent.position).ok();
            let batch = batch.and_then(|index| extents.get(index));
            let points_at_it =
                batch.is_some_and(|batch| (batch.base_offset..=batch.last_offset).contains(&entry.offset));
            if !points_at_it || previous >= Some(entry.offset) {
                self.problems.push(format!(
                    "segment {base}: offset index says that offset {} is at position {}, where it is not",
                    entry.offset, entry.position
                ));
            }
            previous = Some(entry.offset);
        }
        let mut previous = None;
        for entry in segment::time_index(&segment::file(dir, base, "timeindex"), base)? {
            let index = extents.partition_point(|extent| extent.last_offset < entry.offset);
            let found = extents.get(index).is_some_and(|extent| extent.max_timestamp == entry.timestamp);
            if !found || previous > Some(entry.timestamp) {
                self.problems.push(format!(
                    "segment {base}: time index says that the batch of offset {} reaches {}, which it does not",
                    entry.offset, entry.timestamp
                ));
            }
            previous = Some(entry.timestamp);
        }
        Ok(())
    }
}
