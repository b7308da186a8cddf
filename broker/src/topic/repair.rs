//! What a repair makes of a data directory: whose each directory is, what the catalog should say, what is lost.
//!
//! A start refuses what it cannot be sure of; a repair decides, says so, and works on a copy. Invariants: the original is
//! only read; no record that can be read is left out of the copy, but those of topics that were deleted, and of
//! directories that nothing says whose they are.

use super::CATALOG_TOPIC;
use super::inventory::Directories;
use super::record::{CatalogRecord, ProducerIdsEntry, TopicEntry};
use super::registry::is_internal;
use super::start::{CATALOG_ID, House, OpenError};
use super::state::CatalogState;
use crate::config::Overrides;
use crate::disk::Disk;
use crate::journal::{PartitionKey, Pieces, Place};
use crate::log::{
    Checkpointed, Checkpoints, Opening, Positions, RestoredPiece, Salvaged, StorageError, copy_log,
    drop_damage, first_segment, is_retired, make_directory, restore, survey,
};
use crate::partition::{FoldState, Partition, PartitionConfig, PartitionEnv};
use kappa_protocol::record::{BatchBuilder, BatchOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Producer ids that are passed over where it is not known which were given out.
const PRODUCER_IDS_PASSED: i64 = 1_000_000;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// File or directory, within the data directory.
    pub path: String,
    /// What is wrong with it.
    pub found: String,
    /// What the copy has instead.
    pub done: String,
    /// What is lost by that; empty if nothing is.
    pub lost: String,
}

/// A partition of the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Name of its topic.
    pub topic: String,
    /// Its index.
    pub partition: i32,
    /// First offset that is there.
    pub start: i64,
    /// Offset after the last.
    pub end: i64,
}

/// What a repair found and what it leaves.
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// What is wrong; nothing if a broker would start and lose nothing.
    pub findings: Vec<Finding>,
    /// What is kept.
    pub kept: Vec<Kept>,
}

impl Repaired {
    fn note(
        &mut self,
        path: &str,
        found: impl Into<String>,
        done: impl Into<String>,
        lost: impl Into<String>,
    ) {
        let (path, found, done, lost) = (path.to_owned(), found.into(), done.into(), lost.into());
        self.findings.push(Finding { path, found, done, lost });
    }
}

/// A partition: topic id, index.
type Key = (Uuid, i32);

/// A repair under way.
struct Repair<'a> {
    env: &'a PartitionEnv,
    from: &'a Path,
    to: Option<&'a Path>,
    journal: Pieces,
    repaired: Repaired,
    checkpoints: Vec<Checkpointed<String>>,
}

/// Finds out what is wrong with `from`, whose journal has `journal`, and makes the repaired copy in `to`, an empty directory.
///
/// # Errors
/// [`OpenError`] if the directory cannot be listed or the copy not be written.
pub(crate) fn repair(
    env: &PartitionEnv,
    from: &Path,
    to: Option<&Path>,
    journal: Pieces,
) -> Result<Repaired, OpenError> {
    let house = House::new(env, from);
    let found = house.look()?;
    let (repaired, checkpoints) = (Repaired::default(), Vec::new());
    let mut repair = Repair { env, from, to, journal, repaired, checkpoints };
    let checkpoints = repair.checkpoints();
    let (mut state, is_whole) = repair.catalog(&found, &checkpoints)?;
    if !is_whole {
        let next = state.producer_id_next() + PRODUCER_IDS_PASSED;
        state.apply_record(CatalogRecord::ProducerIds(ProducerIdsEntry { next }));
        repair.missing_topics(&mut state, &found);
    }
    let places = repair.places(&state, &found);
    for (id, entry) in state.topics() {
        for index in 0..entry.partitions {
            let opening = checkpoints.of(id, &entry.name, index);
            let directory = places.get(&(id, index)).map(String::as_str);
            repair.partition((id, index), &entry.name, directory, opening)?;
        }
    }
    repair.finish((!is_whole).then_some(&state))?;
    Ok(repair.repaired)
}

impl Repair<'_> {
    fn checkpoints(&mut self) -> Checkpoints {
        Checkpoints::read(&*self.env.disk, self.from, false).unwrap_or_else(|error| {
            let done = "left out: every log is checked from its start";
            let lost = "nothing, but records that DeleteRecords took from the middle of a segment are back";
            self.repaired.note("kappa-checkpoint", told(&error), done, lost);
            Checkpoints::default()
        })
    }

    /// The catalog as far as it can be read, and whether that is all of it.
    fn catalog(
        &mut self,
        found: &Directories,
        checkpoints: &Checkpoints,
    ) -> Result<(CatalogState, bool), OpenError> {
        let name = format!("{CATALOG_TOPIC}-0");
        let opening = checkpoints.of(CATALOG_ID, CATALOG_TOPIC, 0);
        let wrong = match found.get(&name).map(|found| &found.owner) {
            None => {
                let done = "made again from the topics' directories";
                let lost = "settings of topics and brokers; topics that were deleted may be back";
                self.repaired.note(&name, "missing", done, lost);
                return Ok((CatalogState::default(), false));
            }
            Some(Ok(Some(CATALOG_ID))) => None,
            Some(Ok(Some(_))) => Some("with the identity of another topic".to_owned()),
            Some(Ok(None)) => Some("without partition.metadata".to_owned()),
            Some(Err(error)) => Some(told(error)),
        };
        if let Some(wrong) = wrong {
            self.repaired.note(&name, wrong, "taken for the catalog, by its name", "");
        }
        let key = (CATALOG_ID, 0);
        let (read_from, pieces) = self.copy(key, Some(&name), &name, opening)?;
        let (mut state, mut nonsense) = (CatalogState::default(), Vec::new());
        let disk = &self.env.disk;
        let salvaged = survey(disk.clone(), &read_from, &pieces, opening.recovery_point, |batch| {
            if let Err(error) = state.apply(batch) {
                nonsense.push(format!("offset {}: {error}", batch.base_offset()));
            }
        });
        let is_whole = match &salvaged {
            Ok(salvaged) => !has_lost(salvaged, opening) && nonsense.is_empty(),
            Err(_) => false,
        };
        if !is_whole {
            let lost =
                "what was recorded there: settings are older or the default, deleted topics may be back";
            let done = "written anew: topics that have a directory and no record are recorded again";
            let found = if nonsense.is_empty() { "damaged".into() } else { nonsense.join("; ") };
            self.repaired.note(&name, found, done, lost);
        }
        self.keep(key, CATALOG_TOPIC, &name, salvaged, opening);
        Ok((state, is_whole))
    }

    /// Takes up topics that are there as directories and that the catalog does not know.
    fn missing_topics(&mut self, state: &mut CatalogState, found: &Directories) {
        let mut topics: BTreeMap<Uuid, (String, i32)> = BTreeMap::new();
        for (directory, found) in found {
            let (Ok(Some(id)), Some((name, index))) = (&found.owner, place_of(directory)) else { continue };
            let is_known =
                *id == CATALOG_ID || state.was_deleted(*id) || state.topics().any(|(own, _)| own == *id);
            if !is_known && !is_retired(directory) && state.name_like(name).is_none() {
                let topic = topics.entry(*id).or_insert_with(|| (name.to_owned(), 0));
                topic.1 = topic.1.max(index + 1);
            }
        }
        for (id, (name, partitions)) in topics {
            if state.name_like(&name).is_some() {
                continue;
            }
            let entry = TopicEntry { name: name.clone(), partitions, configs: Overrides::new() };
            let done = format!("topic {name} is recorded with {partitions} partitions");
            self.repaired.note(&format!("{name}-*"), "no record of the topic", done, "its settings");
            state.apply_record(CatalogRecord::Topic(id, entry));
        }
    }

    /// Which directory each partition has: by the id in it, else by its name.
    fn places(&mut self, state: &CatalogState, found: &Directories) -> BTreeMap<Key, String> {
        let topics: BTreeMap<Uuid, &TopicEntry> = state.topics().collect();
        let is_partition = |id: &Uuid, index: i32| {
            topics.get(id).is_some_and(|entry| (0..entry.partitions).contains(&index))
        };
        let mut places: BTreeMap<Key, String> = BTreeMap::new();
        let mut left: BTreeSet<&str> = BTreeSet::new();
        for (directory, found) in found.iter().filter(|(name, _)| !is_retired(name)) {
            match (&found.owner, place_of(directory)) {
                (Ok(Some(id)), _) if *id == CATALOG_ID => {}
                (Ok(Some(id)), Some((name, named))) if is_partition(id, found.index.unwrap_or(named)) => {
                    let index = found.index.unwrap_or(named);
                    let right = topics.get(id).map_or("", |entry| entry.name.as_str());
                    // One that has its own name comes before one that was renamed.
                    let has_own = right == name && index == named;
                    if !has_own {
                        let done = format!("copied as {right}-{index}");
                        self.repaired.note(directory, "has the name of another partition", done, "");
                    }
                    if has_own || !places.contains_key(&(*id, index)) {
                        places.insert((*id, index), directory.clone());
                    }
                }
                (Ok(Some(id)), _) if state.was_deleted(*id) => {}
                _ => {
                    left.insert(directory);
                }
            }
        }
        for directory in left {
            if directory == format!("{CATALOG_TOPIC}-0") {
                continue;
            }
            let owner = found.get(directory).map(|found| &found.owner);
            let wrong = match owner {
                Some(Err(error)) => told(error),
                Some(Ok(None)) => "without partition.metadata".into(),
                _ => "of a topic that the catalog does not know".into(),
            };
            let by_name = place_of(directory).and_then(|(name, index)| {
                let (id, _) = topics.iter().find(|(_, entry)| entry.name == name)?;
                is_partition(id, index).then_some((*id, index))
            });
            let is_nameless = !matches!(owner, Some(Ok(Some(_))));
            match by_name.filter(|key| is_nameless && !places.contains_key(key)) {
                Some(key) => {
                    let done = "taken for the partition of its name";
                    self.repaired.note(directory, wrong, done, "");
                    places.insert(key, directory.to_owned());
                }
                None => {
                    self.repaired.note(directory, wrong, "left out", "what it holds: the original has it")
                }
            }
        }
        places
    }

    /// Copies a partition and says what is lost of it.
    fn partition(
        &mut self,
        key: Key,
        topic: &str,
        directory: Option<&str>,
        opening: Opening,
    ) -> Result<(), OpenError> {
        let name = format!("{topic}-{}", key.1);
        let is_journaled = self.journal.contains_key(&journal_key(key));
        if directory.is_none() && is_journaled && opening.held_records() {
            let done = "made of what the journal has";
            self.repaired.note(&name, "missing", done, "all that the journal has not");
        }
        if directory.is_none() && !is_journaled {
            if opening.held_records() {
                let end = opening.recovery_point.max(opening.log_start);
                let lost = format!("offsets {} to {}", opening.log_start, end - 1);
                self.repaired.note(&name, "missing", format!("empty, it goes on at offset {end}"), lost);
                self.make_empty(key, topic, &name, opening)?;
            }
            return Ok(());
        }
        let (read_from, pieces) = self.copy(key, directory, &name, opening)?;
        let salvaged = match self.to {
            Some(_) => drop_damage(self.env.disk.clone(), &read_from, opening.recovery_point),
            None => survey(self.env.disk.clone(), &read_from, &pieces, opening.recovery_point, |_| ()),
        };
        self.keep(key, topic, &name, salvaged, opening);
        Ok(())
    }

    /// Copies a directory, if there is one, with what the journal has of it, if there is to be a copy. Returns where to
    /// look, and what is to be seen there beside what is there.
    fn copy(
        &mut self,
        key: Key,
        directory: Option<&str>,
        name: &str,
        opening: Opening,
    ) -> Result<(PathBuf, Vec<RestoredPiece>), OpenError> {
        let from = self.from.join(directory.unwrap_or(name));
        let pieces = self.lacking(key, &from, name, opening)?;
        let Some(to) = self.to.map(|to| to.join(name)) else { return Ok((from, pieces)) };
        let topic_id = key.0;
        let unreadable = match directory {
            Some(_) => copy_log(&self.env.disk, &from, &to, topic_id)?,
            // It was never durable, and the journal was.
            None => make_directory(&self.env.disk, &to, topic_id).map(|()| 0)?,
        };
        if unreadable > 0 {
            let found = format!("{unreadable} blocks of 64 KiB or files cannot be read");
            self.repaired.note(name, found, "left out", "what they hold, see below");
        }
        restore(self.env.disk.clone(), to.clone(), topic_id, pieces.into_iter().map(Ok))?;
        Ok((to, Vec::new()))
    }

    /// What the journal has of a partition and its segments in `from` lack. A journal outlives what was deleted since.
    fn lacking(
        &mut self,
        key: Key,
        from: &Path,
        name: &str,
        opening: Opening,
    ) -> Result<Vec<RestoredPiece>, OpenError> {
        let pieces = self.journal.remove(&journal_key(key)).unwrap_or_default();
        let first = first_segment(&self.env.disk, from)?;
        let is_deleted = |place: &Place| {
            place.next_offset <= opening.log_start || first.is_some_and(|f| place.segment < f)
        };
        let mut lacking = Vec::new();
        for piece in pieces.iter().filter(|piece| !is_deleted(&piece.place)) {
            let Place { segment, position, next_offset, .. } = piece.place;
            let path = format!("{name}/{segment:020}.log");
            let bytes = match piece.read() {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.repaired.note(&path, told(&error), "left out", "what only the journal had");
                    continue;
                }
            };
            if next_offset <= opening.recovery_point {
                if holds(&self.env.disk, &from.join(format!("{segment:020}.log")), position, &bytes) {
                    continue;
                }
                let found = format!("{} bytes at position {position} are not what they were", bytes.len());
                self.repaired.note(&path, found, "taken from the journal", "");
            }
            lacking.push(RestoredPiece { segment, position, bytes });
        }
        Ok(lacking)
    }

    fn make_empty(&mut self, key: Key, topic: &str, name: &str, opening: Opening) -> Result<(), OpenError> {
        let Opening { recovery_point, log_start, .. } = opening;
        let end = recovery_point.max(log_start);
        self.checkpointed(key, topic, Positions { recovery_point: end, log_start: end });
        self.repaired.kept.push(Kept { topic: topic.into(), partition: key.1, start: end, end });
        if let Some(to) = self.to {
            // Offsets that were given out are not given out again.
            make_directory(&self.env.disk, &to.join(name), key.0)?;
        }
        Ok(())
    }

    /// Takes note of what was read of a partition.
    fn keep(
        &mut self,
        key: Key,
        topic: &str,
        name: &str,
        salvaged: Result<Salvaged, StorageError>,
        opening: Opening,
    ) {
        let salvaged = match salvaged {
            Ok(salvaged) => salvaged,
            Err(error) => {
                self.repaired.note(
                    name,
                    told(&error),
                    "copied as far as it can be read",
                    "see the repaired copy",
                );
                return;
            }
        };
        for lost in &salvaged.lost {
            let path = format!("{name}/{:020}.log", lost.segment);
            let found = format!("{} bytes at position {} are no batch", lost.bytes, lost.position);
            let was_synced = lost.to.is_some() || lost.from < opening.recovery_point;
            let (from, to) = (lost.from, lost.to.or(was_synced.then_some(opening.recovery_point)));
            let what = match to {
                Some(to) if to > from => format!("offsets {from} to {}", to - 1),
                Some(_) => String::new(),
                None => format!("offset {from} and later, if there was any: it had not been synced"),
            };
            self.repaired.note(&path, found, "left out", what);
        }
        let ends_early = salvaged.end < opening.recovery_point;
        if ends_early && salvaged.lost.iter().all(|lost| lost.to.is_some()) {
            let what = format!("offsets {} to {}", salvaged.end, opening.recovery_point - 1);
            self.repaired.note(name, "ends before what had been synced", "copied as far as it goes", what);
        }
        let start = salvaged.start.max(opening.log_start);
        // A state is folded of what there is: such a log has no gap at either end.
        let (end, log_start) = match is_internal(topic) {
            true => (salvaged.end, start),
            false => (salvaged.end.max(opening.recovery_point), opening.log_start),
        };
        // Gaps are only legal before the recovery point, and a gap that was there before is none that was found.
        if end > 0 {
            self.checkpointed(key, topic, Positions { recovery_point: end, log_start });
        }
        self.repaired.kept.push(Kept { topic: topic.into(), partition: key.1, start, end });
    }

    fn checkpointed(&mut self, key: Key, topic: &str, positions: Positions) {
        let (topic_id, partition) = key;
        self.checkpoints.push(Checkpointed { topic_id, topic: topic.into(), partition, positions });
    }

    /// Writes the checkpoints of the copy, and its catalog anew if that is not as it was.
    fn finish(&mut self, catalog: Option<&CatalogState>) -> Result<(), OpenError> {
        let Some(to) = self.to else { return Ok(()) };
        if let Some(state) = catalog {
            let positions = self.record(to, state)?;
            self.checkpoints.retain(|log| log.topic_id != CATALOG_ID);
            self.checkpointed((CATALOG_ID, 0), CATALOG_TOPIC, positions);
        }
        Ok(Checkpoints::write(&*self.env.disk, to, &self.checkpoints)?)
    }

    /// Makes the copy's catalog of a state; its offsets go on. Returns where it begins and ends.
    fn record(&self, to: &Path, state: &CatalogState) -> Result<Positions, OpenError> {
        let directory = to.join(format!("{CATALOG_TOPIC}-0"));
        let disk = &self.env.disk;
        if disk.list_if_there(&directory).map_err(StorageError::on("list", &directory))?.is_some() {
            disk.remove_dir_all(&directory).map_err(StorageError::on("remove", &directory))?;
        }
        make_directory(disk, &directory, CATALOG_ID)?;
        let kept = self.repaired.kept.iter().find(|kept| kept.topic == CATALOG_TOPIC);
        let recovery_point = kept.map_or(0, |kept| kept.end);
        let opening = Opening { clean: false, recovery_point, log_start: 0 };
        let (log, _) = Partition::open(self.env, directory, CATALOG_ID, PartitionConfig::default(), opening)?;
        let now_ms = self.env.clock.now_ms();
        for record in state.records(|_| true) {
            let mut batch = BatchBuilder::new(BatchOptions::default());
            let (key, value) = (record.key(), record.value());
            batch.push(now_ms, Some(key.as_bytes()), value.as_deref(), std::iter::empty());
            log.append(batch.finish(0)).map_err(|error| OpenError::Catalog(Box::new(error)))?;
        }
        log.close()?;
        Ok(log.positions())
    }
}

/// Whether something is lost that a start would not cut off as the end of a write that was never answered.
fn has_lost(salvaged: &Salvaged, opening: Opening) -> bool {
    let is_lost = |lost: &crate::log::Lost| lost.to.is_some() || lost.from < opening.recovery_point;
    salvaged.lost.iter().any(is_lost)
        || salvaged.end < opening.recovery_point
        || salvaged.start > opening.log_start.max(salvaged.deleted_before)
}

/// Whether a file has these bytes there.
fn holds(disk: &Arc<dyn Disk>, path: &Path, position: u64, bytes: &[u8]) -> bool {
    let mut found = Vec::with_capacity(bytes.len());
    let read = disk.open(path).and_then(|file| file.read_at(position, bytes.len(), &mut found));
    read.is_ok() && found == bytes
}

fn journal_key((topic_id, index): Key) -> PartitionKey {
    PartitionKey { topic_id, index }
}

/// The topic and index that a directory's name says.
fn place_of(directory: &str) -> Option<(&str, i32)> {
    let (name, index) = directory.rsplit_once('-')?;
    Some((name, index.parse().ok().filter(|index| *index >= 0)?))
}

fn told(error: &StorageError) -> String {
    format!("{error}: {}", error.source)
}
