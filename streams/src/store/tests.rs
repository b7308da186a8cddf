//! The store against a plain ordered map, and its changelog, expiry and restore.

use super::*;
use crate::codec::{I64, opt};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Default)]
struct Written(Vec<(Vec<u8>, Option<Vec<u8>>, i64)>);

impl ChangelogWriter for Written {
    fn write(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: i64) {
        self.0.push((key.to_vec(), value.map(<[u8]>::to_vec), timestamp));
    }
}

fn store(logged: bool) -> Store<i64> {
    Store::new("s".into(), Arc::new(I64), logged)
}

#[test]
fn a_flush_writes_the_last_value_of_each_changed_key_once() {
    let mut store = store(true);
    store.put(b"b", Some(1), 10);
    store.put(b"a", Some(2), 11);
    store.put(b"b", Some(3), 12);
    let mut written = Written::default();
    store.flush(&mut written).unwrap();
    assert_eq!(
        written.0,
        [
            (b"b".to_vec(), Some(3i64.to_be_bytes().to_vec()), 12),
            (b"a".to_vec(), Some(2i64.to_be_bytes().to_vec()), 11)
        ]
    );
    let mut again = Written::default();
    store.flush(&mut again).unwrap();
    assert!(again.0.is_empty());
}

#[test]
fn a_deleted_row_leaves_a_tombstone_and_then_nothing() {
    let mut store = store(true);
    store.put(b"k", Some(1), 10);
    store.put(b"k", None, 20);
    assert_eq!(store.get(b"k"), None);
    let mut written = Written::default();
    store.flush(&mut written).unwrap();
    assert_eq!(written.0, [(b"k".to_vec(), None, 20)]);
    assert_eq!(store.dump().unwrap().len(), 0);
    assert_eq!(store.rows.len(), 0);
    store.check();
}

#[test]
fn windows_expire_by_stream_time_with_tombstones() {
    let key = |start: i64| [b"k".as_slice(), &start.to_be_bytes(), &[0; 4]].concat();
    let mut store = Store::windowed("w".into(), Arc::new(I64), true, 100);
    store.put(&key(0), Some(1), 5);
    store.put(&key(50), Some(2), 60);
    store.flush(&mut Written::default()).unwrap();
    store.expire(99);
    assert_eq!(store.dump().unwrap().len(), 2);
    store.expire(100);
    assert_eq!(store.get(&key(0)), None);
    let mut written = Written::default();
    store.flush(&mut written).unwrap();
    assert_eq!(written.0, [(key(0), None, 5)]);
    assert_eq!(store.get(&key(50)), Some((&2, 60)));
}

/// A key of a window store.
fn windowed_key(key: &[u8], start: i64) -> Vec<u8> {
    [key, &start.to_be_bytes(), &[0; 4]].concat()
}

#[test]
fn a_row_made_after_a_restored_tombstone_has_a_slot_of_its_own() {
    let mut store = Store::windowed("w".into(), Arc::new(I64), true, 100);
    let one = 1i64.to_be_bytes();
    for key in 0..20 {
        store.restore(&windowed_key(&[key], 0), Some(&one), 5).unwrap();
        store.restore(&windowed_key(&[key], 0), None, 5).unwrap();
        store.check();
    }
    store.put(&windowed_key(b"x", 200), Some(1), 200);
    store.expire(200);
    store.check();
    for round in 1..=3 {
        for key in 0..40 {
            let before = store.put(&windowed_key(&[key], 200), Some(round), 200);
            assert_eq!(before.map(|(count, _)| count).unwrap_or(0), round - 1);
        }
        store.expire(200);
        store.check();
    }
    assert_eq!(store.dump().unwrap().len(), 41);
}

#[test]
fn looking_ahead_finds_what_is_there_and_changes_nothing() {
    let mut store = Store::new("s".into(), Arc::new(I64), true);
    let keys: Vec<[u8; 4]> = (0..LOOK_AHEAD_ROWS_MIN as u32 + 50).map(u32::to_be_bytes).collect();
    for key in &keys {
        store.put(key, Some(1), 1);
    }
    let before = store.dump().unwrap();
    for length in [0, 1, LOOK_AHEAD_KEYS, 3 * LOOK_AHEAD_KEYS + 1] {
        let (mut ahead, mut asked) = (keys.iter().rev(), 0);
        store.look_ahead(&mut std::iter::from_fn(|| {
            asked += 1;
            ahead.next().filter(|_| asked <= length).map(|key| &key[..])
        }));
        assert_eq!(asked, length + 1, "each key once, and the end");
    }
    assert!(keys.iter().all(|key| store.index.guess(key).is_some()));
    store.look_ahead(&mut [&b"none"[..]].into_iter());
    assert_eq!(store.dump().unwrap(), before);
    store.check();
}

#[test]
fn a_null_of_the_codec_deletes_and_is_no_row_of_any_restore() {
    let mut store = Store::new("s".into(), Arc::new(opt(I64)), true);
    store.put(b"k", Some(Some(1)), 1);
    let (kept, _) = store.update(b"k", |old, _| {
        assert_eq!(old, Some(Some(1)));
        (Some(None), 2)
    });
    assert_eq!(store.value(kept), None);
    assert_eq!(store.get(b"k"), None);
    store.check();
    let mut written = Written::default();
    store.flush(&mut written).unwrap();
    assert_eq!(written.0, [(b"k".to_vec(), None, 2)]);
    store.update(b"k", |old, _| {
        assert_eq!(old, None);
        (None, 3)
    });
}

proptest! {
    #[test]
    fn any_history_equals_an_ordered_map_and_its_own_restore(
        steps in prop::collection::vec((prop::collection::vec(0u8..4, 0..3), prop::option::of(any::<i64>()), any::<bool>()), 0..200),
        logged: bool,
    ) {
        let (mut store, mut model) = (store(logged), BTreeMap::new());
        let mut changelog = Written::default();
        for (time, (key, value, flush)) in steps.into_iter().enumerate() {
            let time = time as i64;
            let before = store.put(&key, value, time);
            prop_assert_eq!(before, model.get(&key).copied());
            match value {
                Some(value) => { model.insert(key, (value, time)); }
                None => { model.remove(&key); }
            }
            if flush {
                store.flush(&mut changelog).unwrap();
                store.dump().unwrap();
            }
            store.check();
        }
        let dump = store.dump().unwrap();
        let expected: Vec<Entry> = model.into_iter()
            .map(|(key, (value, timestamp))| Entry { key, value: value.to_be_bytes().to_vec(), timestamp })
            .collect();
        prop_assert_eq!(&dump, &expected);
        if logged {
            store.flush(&mut changelog).unwrap();
            let mut restored = Store::<i64>::new("r".into(), Arc::new(I64), true);
            for (key, value, time) in &changelog.0 {
                restored.restore(key, value.as_deref(), *time).unwrap();
            }
            prop_assert_eq!(restored.dump().unwrap(), expected);
        }
    }

    #[test]
    fn any_history_of_windows_equals_a_map_that_expires_and_its_own_restore(
        steps in prop::collection::vec((0u8..4, 0i64..12, 0u8..10, 0i64..6), 0..200),
    ) {
        const RETENTION: i64 = 30;
        let new = || Store::<i64>::windowed("w".into(), Arc::new(I64), true, RETENTION);
        let (mut store, mut changelog, mut time) = (new(), Written::default(), 0);
        let mut model: BTreeMap<Vec<u8>, (i64, i64)> = BTreeMap::new();
        for (key, window, step, later) in steps {
            time += later;
            let start = time - time % 5 - 5 * (window % 4);
            let key = windowed_key(&[key], start);
            match step {
                // A move: the store is made again from its changelog.
                0 => {
                    store.flush(&mut changelog).unwrap();
                    store = new();
                    for (key, value, time) in &changelog.0 {
                        store.restore(key, value.as_deref(), *time).unwrap();
                        store.check();
                    }
                }
                1 => store.flush(&mut changelog).unwrap(),
                step => {
                    store.expire(time);
                    model.retain(|key, _| window_start_of(key).unwrap() > time - RETENTION);
                    let value = (step > 2).then_some(window);
                    let before = store.put(&key, value, time);
                    prop_assert_eq!(before, model.remove(&key));
                    value.into_iter().for_each(|value| { model.insert(key.clone(), (value, time)); });
                }
            }
            store.check();
            let dump = store.dump().unwrap();
            let expected: Vec<Entry> = model.iter()
                .map(|(key, (value, timestamp))| Entry { key: key.clone(), value: value.to_be_bytes().to_vec(), timestamp: *timestamp })
                .collect();
            prop_assert_eq!(dump, expected);
        }
    }
}
