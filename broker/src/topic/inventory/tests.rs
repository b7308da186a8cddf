//! The plan, case by case.

use super::*;
use crate::config::Overrides;
use crate::log::{Checkpointed, Positions};
use crate::topic::record::{CatalogRecord, TopicEntry};
use std::io;
use std::path::Path;
use std::sync::Arc;

const LIVE: Uuid = Uuid::from_u128(1);
const DELETED: Uuid = Uuid::from_u128(2);
const STRANGE: Uuid = Uuid::from_u128(3);
const OTHER: Uuid = Uuid::from_u128(4);

/// Topic `t` with one partition, `other` with one, and one that was deleted.
fn state() -> CatalogState {
    let mut state = CatalogState::default();
    let entry = |name: &str| TopicEntry { name: name.into(), partitions: 1, configs: Overrides::new() };
    state.apply_record(CatalogRecord::Topic(LIVE, entry("t")));
    state.apply_record(CatalogRecord::Topic(OTHER, entry("other")));
    state.apply_record(CatalogRecord::TopicDeleted(DELETED));
    state
}

fn checkpoints(logs: Logs<'_>) -> Checkpoints {
    let disk = crate::disk::SimulatedDisk::new(1);
    let logs: Vec<_> = logs
        .iter()
        .map(|(topic_id, recovery_point, log_start)| Checkpointed {
            topic_id: *topic_id,
            topic: "t",
            partition: 0,
            positions: Positions { recovery_point: *recovery_point, log_start: *log_start },
        })
        .collect();
    Checkpoints::write(&disk, Path::new("/"), &logs).unwrap();
    Checkpoints::read(&disk, Path::new("/"), false).unwrap()
}

fn unreadable_file() -> StorageError {
    StorageError {
        action: "open",
        path: "partition.metadata".into(),
        source: Arc::new(io::Error::from_raw_os_error(24)),
    }
}

/// What the plan says of `directory`, one word for each action, in order.
fn fate(actions: &[Action], directory: &str) -> String {
    let word = |action: &Action| match action {
        Action::Open(place, _) if place.directory == directory => Some("open"),
        Action::Create(place) if place.directory == directory => Some("create"),
        Action::FinishDeletion(name, _) if name == directory => Some("finish deletion"),
        Action::SetAside(name) if name == directory => Some("set aside"),
        Action::Refuse(refusal) if refusal.to_string().starts_with(directory) => Some("refuse"),
        _ => None,
    };
    actions.iter().filter_map(word).collect::<Vec<_>>().join(", ")
}

type Owner = Option<Option<Uuid>>;
/// Topic, recovery point, log start.
type Logs<'a> = &'a [(Uuid, i64, i64)];

#[test]
fn every_directory_has_one_fate() {
    let fresh = &[][..];
    let synced = &[(LIVE, 5, 0)][..];
    let trimmed = &[(LIVE, 0, 3)][..];
    let id = |id| Some(Some(id));
    let (none, unreadable): (Owner, Owner) = (Some(None), None);
    let retired = "00000000000000000000000000000002-0.delete";
    let table: &[(&str, Owner, bool, Logs<'_>, &str)] = &[
        // A recorded partition's directory.
        ("t-0", id(LIVE), false, fresh, "open"),
        ("t-0", id(LIVE), false, synced, "open"),
        ("t-0", unreadable, false, fresh, "refuse"),
        ("t-0", unreadable, false, synced, "refuse"),
        ("t-0", none, true, fresh, "finish deletion, create"),
        ("t-0", none, false, fresh, "set aside, create"),
        ("t-0", none, true, synced, "refuse"),
        ("t-0", none, true, trimmed, "refuse"),
        ("t-0", id(DELETED), false, fresh, "finish deletion, create"),
        ("t-0", id(DELETED), false, synced, "refuse"),
        ("t-0", id(STRANGE), false, fresh, "set aside, create"),
        ("t-0", id(STRANGE), true, fresh, "finish deletion, create"),
        ("t-0", id(OTHER), false, fresh, "refuse"),
        // One that no topic accounts for.
        ("x-0", id(DELETED), false, fresh, "finish deletion"),
        ("x-0", id(STRANGE), false, fresh, "set aside"),
        ("x-0", id(STRANGE), true, fresh, "finish deletion"),
        ("x-0", none, false, fresh, "set aside"),
        ("x-0", none, true, fresh, "finish deletion"),
        ("x-0", unreadable, false, fresh, "refuse"),
        ("t-1", id(LIVE), false, fresh, "set aside"),
        ("t-1", id(LIVE), true, fresh, "finish deletion"),
        (retired, none, false, fresh, "finish deletion"),
        (retired, unreadable, false, fresh, "finish deletion"),
        ("t-0.00000000000000000000000000000002-delete", none, false, fresh, "finish deletion"),
    ];
    for (directory, owner, is_blank, logs, expected) in table {
        let owner = owner.ok_or_else(unreadable_file);
        let found =
            Directories::from([((*directory).to_owned(), Found { owner, index: None, is_blank: *is_blank })]);
        let actions = plan(&state(), &found, &checkpoints(logs));
        assert_eq!(fate(&actions, directory), *expected, "{directory} {found:?} {logs:?}");
    }
}

#[test]
fn a_recorded_directory_that_is_missing_is_made_only_if_it_never_held_anything() {
    for (logs, expected) in [
        (&[][..], "create"),
        (&[(LIVE, 0, 0)], "create"),
        (&[(LIVE, 9, 0)], "refuse"),
        (&[(LIVE, 0, 4)], "refuse"),
    ] {
        let actions = plan(&state(), &Directories::new(), &checkpoints(logs));
        assert_eq!(fate(&actions, "t-0"), expected, "{logs:?}");
    }
    // What an earlier topic of the name held says nothing of this one.
    let actions = plan(&state(), &Directories::new(), &checkpoints(&[(DELETED, 9, 9)]));
    assert_eq!(fate(&actions, "t-0"), "create");
}

#[test]
fn the_catalog_is_opened_or_made_in_an_empty_house_and_never_moved() {
    let catalog = format!("{CATALOG_TOPIC}-0");
    let found =
        |owner: Owner, is_blank| Found { owner: owner.ok_or_else(unreadable_file), index: None, is_blank };
    let here = |owner, is_blank| Some(found(owner, is_blank));
    let held = &[(CATALOG_ID, 5, 0)][..];
    let other = |owner, is_blank| Some(found(owner, is_blank));
    let table: Vec<(Option<Found>, Option<Found>, Logs<'_>, &str)> = vec![
        (None, None, &[], "create"),
        (None, other(Some(None), false), &[], "create"),
        (None, other(Some(Some(LIVE)), true), &[], "create"),
        (None, other(Some(Some(LIVE)), false), &[], "refuse"),
        (None, other(None, false), &[], "refuse"),
        (None, None, held, "refuse"),
        (here(Some(Some(CATALOG_ID)), false), other(Some(Some(LIVE)), false), held, "open"),
        (here(Some(Some(LIVE)), false), None, &[], "refuse"),
        (here(Some(None), true), None, &[], "finish deletion, create"),
        (here(Some(None), true), other(Some(Some(LIVE)), false), &[], "refuse"),
        (here(Some(None), true), None, held, "refuse"),
        (here(Some(None), false), None, &[], "refuse"),
        (here(None, false), None, &[], "refuse"),
    ];
    for (here, other, logs, expected) in table {
        let mut found = Directories::new();
        found.extend(here.map(|here| (catalog.clone(), here)));
        found.extend(other.map(|other| ("t-0".to_owned(), other)));
        let actions = plan_catalog(&found, &checkpoints(logs));
        assert_eq!(fate(&actions, &catalog), expected, "{found:?} {logs:?}");
        let rest = plan(&state(), &found, &checkpoints(&[]));
        assert_eq!(fate(&rest, &catalog), "");
    }
}
