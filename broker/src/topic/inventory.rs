//! What becomes of each directory in a data directory: a pure decision from catalog, directories and checkpoints.
//!
//! Invariants: an error is never taken for an absence; no directory serves a topic but that of its id; what held records
//! is never started empty and never removed unless the catalog says that its topic was deleted; the catalog's own
//! directory is never moved. Touches no disk; [`super::start`] looks and carries out.

use super::CATALOG_TOPIC;
use super::start::CATALOG_ID;
use super::state::CatalogState;
use crate::log::{Checkpoints, Opening, StorageError, is_owner, is_retired};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A directory as it was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The topic that it belongs to; `None` if nothing of it was ever durable, or it is no partition's at all.
    pub(super) owner: Result<Option<Uuid>, StorageError>,
    /// Which partition of it, if that is said.
    pub(super) index: Option<i32>,
    /// Whether it is known to hold nothing but what the creation of a partition leaves: no byte of any record.
    pub(super) is_blank: bool,
}

/// All directories by name.
pub(super) type Directories = BTreeMap<String, Found>;

/// A partition of the catalog and its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its topic.
    pub(super) topic_id: Uuid,
    /// Its index.
    pub(super) index: i32,
    /// The directory's name.
    pub(super) directory: String,
}

/// What is to be done with a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Open the partition that it holds.
    Open(Place, Opening),
    /// Make the directory of a partition that never held anything durable. It is free once all others are done.
    Create(Place),
    /// Remove what is left of a deletion, or of a creation that was never recorded.
    FinishDeletion(String, Option<Uuid>),
    /// Move it to where a person may look at it.
    SetAside(String),
    /// Do not start.
    Refuse(Refusal),
}

/// Why a broker does not start with the directories that it found. Every message names the thing and the cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be told whose a directory is.
    #[error(
        "{directory}: {error}; if a limit was reached (open files, memory), raise it and start again; if the file is \
         damaged, put it back from a backup, or copy it from another partition's directory of the same topic and \
         put its line `partition:` right"
    )]
    Unreadable {
        /// The directory.
        directory: String,
        /// What the disk said.
        error: String,
    },
    /// A directory that held records is gone, or has lost its identity.
    #[error(
        "{directory} is {what}, but held records up to offset {held}: put the directory back (set-aside may have it); \
         to give its records up and start it empty, move the file kappa-checkpoint away, which has every log checked"
    )]
    Lost {
        /// The directory.
        directory: String,
        /// What is wrong with it.
        what: &'static str,
        /// Offset up to which it held records.
        held: i64,
    },
    /// The catalog is gone, but topics are there.
    #[error(
        "{CATALOG_TOPIC}-0 is {what}, and without it nobody knows which topics there are, but {other} holds records: \
         put {CATALOG_TOPIC}-0 back from a backup, or move the other directories away to start with no topics"
    )]
    NoCatalog {
        /// What is wrong with it.
        what: &'static str,
        /// A directory of a topic.
        other: String,
    },
    /// A directory has the name of one partition and is another one of the same topic.
    #[error(
        "{directory} is partition {index} of its topic: directories were renamed by hand; give them their names back"
    )]
    Misplaced {
        /// The directory.
        directory: String,
        /// Which partition it is.
        index: i32,
    },
    /// A directory has the name of one topic's partition and the id of another topic.
    #[error(
        "{directory} belongs to topic {owner}, which is there under the name {name:?}: directories were renamed by \
         hand; give them their names back"
    )]
    Misnamed {
        /// The directory.
        directory: String,
        /// Whose it is.
        owner: Uuid,
        /// The name of that topic.
        name: String,
    },
}

/// What becomes of the catalog's directory, which is all that can be told before the catalog is read.
pub(super) fn plan_catalog(found: &Directories, checkpoints: &Checkpoints) -> Vec<Action> {
    let directory = format!("{CATALOG_TOPIC}-0");
    let opening = checkpoints.of(CATALOG_ID, CATALOG_TOPIC, 0);
    let place = Place { topic_id: CATALOG_ID, index: 0, directory: directory.clone() };
    let here = found.get(&directory);
    let what = match here.map(|here| &here.owner) {
        Some(Ok(Some(CATALOG_ID))) => return vec![Action::Open(place, opening)],
        Some(Err(error)) => return vec![Action::Refuse(unreadable(&directory, error))],
        Some(Ok(Some(_))) => "that of another topic",
        Some(Ok(None)) => "without partition.metadata",
        None => "missing",
    };
    let is_free = here.is_none_or(|here| here.is_blank && matches!(here.owner, Ok(None)));
    if opening.held_records() || !is_free {
        let held = opening.recovery_point.max(opening.log_start);
        return vec![Action::Refuse(Refusal::Lost { directory, what, held })];
    }
    let mut others = found.iter().filter(|(name, _)| **name != directory);
    if let Some((other, _)) = others.find(|(_, found)| !matches!(found.owner, Ok(None)) && !found.is_blank) {
        return vec![Action::Refuse(Refusal::NoCatalog { what, other: other.clone() })];
    }
    here.map(|_| Action::FinishDeletion(directory, None)).into_iter().chain([Action::Create(place)]).collect()
}

/// What becomes of every directory but the catalog's.
pub(super) fn plan(state: &CatalogState, found: &Directories, checkpoints: &Checkpoints) -> Vec<Action> {
    let mut actions = Vec::with_capacity(found.len());
    let mut left: BTreeMap<&str, &Found> = found.iter().map(|(name, found)| (name.as_str(), found)).collect();
    left.remove(format!("{CATALOG_TOPIC}-0").as_str());
    for (topic_id, entry) in state.topics() {
        for index in 0..entry.partitions {
            let directory = format!("{}-{index}", entry.name);
            let opening = checkpoints.of(topic_id, &entry.name, index);
            let here = left.remove(directory.as_str());
            let what = match here.map(|here| &here.owner) {
                Some(Ok(Some(owner))) if is_owner(*owner, topic_id) => {
                    actions.push(match here.and_then(|here| here.index).filter(|said| *said != index) {
                        None => Action::Open(Place { topic_id, index, directory }, opening),
                        Some(index) => Action::Refuse(Refusal::Misplaced { directory, index }),
                    });
                    continue;
                }
                Some(Err(error)) => {
                    actions.push(Action::Refuse(unreadable(&directory, error)));
                    continue;
                }
                Some(Ok(Some(_))) => "that of another topic",
                Some(Ok(None)) => "without partition.metadata",
                None => "missing",
            };
            if opening.held_records() {
                let held = opening.recovery_point.max(opening.log_start);
                actions.push(Action::Refuse(Refusal::Lost { directory, what, held }));
                continue;
            }
            let other = here.map(|here| in_the_way(state, &directory, here));
            let is_freed = !matches!(other, Some(Action::Refuse(_)));
            actions.extend(other);
            if is_freed {
                actions.push(Action::Create(Place { topic_id, index, directory }));
            }
        }
    }
    actions.extend(left.into_iter().map(|(directory, found)| unclaimed(state, directory, found)));
    actions
}

/// What becomes of a directory that is no recorded partition's.
pub(super) fn unclaimed(state: &CatalogState, directory: &str, found: &Found) -> Action {
    match &found.owner {
        _ if is_retired(directory) => Action::FinishDeletion(directory.into(), None),
        Err(error) => Action::Refuse(unreadable(directory, error)),
        Ok(Some(id)) if state.was_deleted(*id) => Action::FinishDeletion(directory.into(), Some(*id)),
        Ok(owner) if found.is_blank => Action::FinishDeletion(directory.into(), *owner),
        Ok(_) => Action::SetAside(directory.into()),
    }
}

/// What becomes of a directory that has the name of a recorded partition and is not its own.
fn in_the_way(state: &CatalogState, directory: &str, found: &Found) -> Action {
    if let Ok(Some(owner)) = found.owner
        && !found.is_blank
        && let Some((_, entry)) = state.topics().find(|(id, _)| *id == owner)
    {
        let name = entry.name.clone();
        return Action::Refuse(Refusal::Misnamed { directory: directory.into(), owner, name });
    }
    unclaimed(state, directory, found)
}

fn unreadable(directory: &str, error: &StorageError) -> Refusal {
    Refusal::Unreadable { directory: directory.into(), error: format!("{error}: {}", error.source) }
}

#[cfg(test)]
mod tests;
