//! Fetch sessions (KIP-227): what a client wants is kept, so that it names only what changed and is told only of that.
//!
//! A session is in the cache between fetches and with the fetch that uses it meanwhile. Invariants: there are at most so
//! many sessions as is configured, and their memory, which is counted in the budget of all connections, is at most an
//! eighth of it; an epoch is used once. Who gets no session is answered in full. It knows what sessions are worth, not
//! what they want.

use super::wanted::Wanted;
use crate::budget::{Budget, Share};
use kappa_protocol::ErrorCode;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// How long a session is safe from one that is larger, and without use from any.
const EVICTION_MIN_MS: i64 = 120_000;
/// The part of all connections' memory that sessions may take.
const PART_MAX: usize = 8;
/// How often what is idle is looked at for changes that no waiter notices.
const SWEEP_MS: i64 = 5_000;

/// The epoch of a request that asks for a session.
pub(super) const EPOCH_INITIAL: i32 = 0;
/// The epoch of a request that asks for none.
pub(super) const EPOCH_FINAL: i32 = -1;

/// All sessions of a broker.
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: usize,
    bytes_max: usize,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct Cache {
    sessions: HashMap<i32, Session>,
    /// Holds the bytes of all of them.
    share: Share,
}

#[derive(Debug)]
struct Session {
    /// Epoch of the next fetch.
    epoch: i32,
    uses_ids: bool,
    opened_ms: i64,
    used_ms: i64,
    swept_ms: i64,
    /// Partitions, and bytes of memory, when it was last here.
    len: usize,
    bytes: usize,
    /// Away while a fetch uses it.
    wanted: Option<Wanted>,
}

impl Sessions {
    /// At most `slots` sessions, with memory of `budget`.
    pub(crate) fn new(slots: usize, budget: &Arc<Budget>) -> Self {
        let cache = Cache { sessions: HashMap::new(), share: budget.share() };
        Self { slots, bytes_max: budget.max() / PART_MAX, cache: Mutex::new(cache) }
    }

    /// Opens a session of what was told in full, and gives it a number; `None` if there is no room.
    pub(super) fn open(&self, wanted: Wanted, uses_ids: bool, now_ms: i64) -> Option<i32> {
        let (len, bytes) = (wanted.len(), wanted.bytes());
        let mut cache = self.cache.lock();
        if !cache.make_room(self.slots, self.bytes_max, (len, bytes), now_ms) {
            return None;
        }
        let mut id = 0;
        while id == 0 || cache.sessions.contains_key(&id) {
            id = i32::from_be_bytes(
                uuid::Uuid::new_v4().into_bytes().first_chunk().copied().unwrap_or_default(),
            ) & i32::MAX;
        }
        let session = Session {
            epoch: next(EPOCH_INITIAL),
            uses_ids,
            opened_ms: now_ms,
            used_ms: now_ms,
            swept_ms: now_ms,
            len,
            bytes,
            wanted: Some(wanted),
        };
        cache.sessions.insert(id, session);
        cache.resize(0, bytes);
        Some(id)
    }

    /// Takes what a session wants for a fetch, and whether it is time to sweep it.
    pub(super) fn take(
        &self,
        id: i32,
        epoch: i32,
        uses_ids: bool,
        now_ms: i64,
    ) -> Result<(Wanted, bool), ErrorCode> {
        let mut cache = self.cache.lock();
        let session = cache.sessions.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.uses_ids != uses_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        // Another fetch has it: that one's epoch was used twice, or its client did not wait for the answer.
        let wanted = session.wanted.take().ok_or(ErrorCode::InvalidFetchSessionEpoch)?;
        session.epoch = next(session.epoch);
        session.used_ms = now_ms;
        let sweep = now_ms - session.swept_ms >= SWEEP_MS;
        if sweep {
            session.swept_ms = now_ms;
        }
        Ok((wanted, sweep))
    }

    /// Gives back what was taken. A session that has outgrown its room is gone.
    pub(super) fn put_back(&self, id: i32, wanted: Wanted) {
        let mut cache = self.cache.lock();
        let Some(session) = cache.sessions.get_mut(&id) else { return };
        let (before, bytes) = (session.bytes, wanted.bytes());
        (session.len, session.bytes) = (wanted.len(), bytes);
        session.wanted = Some(wanted);
        cache.resize(before, bytes);
        let gone = if cache.share.bytes() > self.bytes_max { cache.remove(id) } else { None };
        drop(cache);
        // Its waiters leave their partitions without the lock.
        drop(gone);
    }

    /// Closes a session.
    pub(super) fn close(&self, id: i32) {
        let gone = self.cache.lock().remove(id);
        drop(gone);
    }
}

impl Cache {
    /// A session takes other memory than before.
    fn resize(&mut self, before: usize, bytes: usize) {
        let all = self.share.bytes() - before + bytes;
        self.share.set(all);
    }

    fn remove(&mut self, id: i32) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        self.resize(session.bytes, 0);
        Some(session)
    }

    /// Makes room for a session of so many partitions and bytes as Apache Kafka's cache does: who was not used for long
    /// goes, or who is smaller and has been there for long.
    fn make_room(
        &mut self,
        slots: usize,
        bytes_max: usize,
        (len, bytes): (usize, usize),
        now_ms: i64,
    ) -> bool {
        while self.sessions.len() >= slots || self.share.bytes() + bytes > bytes_max {
            let unused = self.sessions.iter().min_by_key(|(id, session)| (session.used_ms, **id));
            let unused = unused.filter(|(_, session)| now_ms - session.used_ms > EVICTION_MIN_MS);
            let old =
                self.sessions.iter().filter(|(_, session)| now_ms - session.opened_ms > EVICTION_MIN_MS);
            let smaller = old.min_by_key(|(id, session)| (session.len, **id));
            let smaller = smaller.filter(|(_, session)| session.len < len);
            let Some(id) = unused.or(smaller).map(|(id, _)| *id) else { return false };
            drop(self.remove(id));
        }
        true
    }
}

/// The epoch after this one: never again the one that asks for a session.
fn next(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::super::wanted::PARTITION_BYTES;
    use super::*;

    const OLD: i64 = EVICTION_MIN_MS + 1;

    fn open(sessions: &Sessions, len: usize, now_ms: i64) -> i32 {
        sessions.open(Wanted::of_nothing(len), false, now_ms).unwrap_or(0)
    }

    #[test]
    fn unused_sessions_make_way_and_old_ones_for_larger_ones() {
        let sessions = Sessions::new(2, &Budget::new(1 << 30));
        let use_it = |id, epoch, now_ms| match sessions.take(id, epoch, false, now_ms) {
            Ok((wanted, _)) => {
                sessions.put_back(id, wanted);
                true
            }
            Err(_) => false,
        };
        let (small, large) = (open(&sessions, 1, 0), open(&sessions, 10, 0));
        assert!(small > 0 && large > 0 && small != large);
        assert_eq!(open(&sessions, 5, 1), 0, "both are young and in use");
        assert!(use_it(small, 1, OLD) && use_it(large, 1, OLD));
        assert_eq!(open(&sessions, 1, OLD), 0, "none is smaller");
        let middle = open(&sessions, 5, OLD);
        assert!(middle > 0 && !use_it(small, 2, OLD) && use_it(large, 2, 2 * OLD));
        assert!(open(&sessions, 1, 2 * OLD + 1) > 0);
        assert!(!use_it(middle, 1, 2 * OLD + 1), "it was not used for longest");
    }

    #[test]
    fn sessions_take_their_part_of_the_memory_and_give_it_back() {
        let budget = Budget::new(800 * PARTITION_BYTES);
        let sessions = Sessions::new(1000, &budget);
        let first = open(&sessions, 60, 0);
        assert!(first > 0 && open(&sessions, 41, 0) == 0);
        let second = open(&sessions, 40, 0);
        assert_eq!(budget.used(), 100 * PARTITION_BYTES);
        let (_, sweep) = sessions.take(first, 1, false, 0).unwrap();
        assert!(!sweep);
        assert_eq!(sessions.take(first, 2, false, 0).unwrap_err(), ErrorCode::InvalidFetchSessionEpoch);
        // It has outgrown what is left.
        sessions.put_back(first, Wanted::of_nothing(61));
        assert_eq!(sessions.take(first, 2, false, 0).unwrap_err(), ErrorCode::FetchSessionIdNotFound);
        assert_eq!(budget.used(), 40 * PARTITION_BYTES);
        sessions.close(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_names_of_topics_are_counted() {
        let budget = Budget::new(1 << 30);
        let sessions = Sessions::new(1000, &budget);
        let mut wanted = Wanted::of_nothing(2);
        let before = wanted.bytes();
        let name = "x".repeat(100);
        wanted.add_nothing(&name, 1);
        assert_eq!(wanted.bytes(), before + 100 + PARTITION_BYTES);
        let id = sessions.open(wanted, false, 0).unwrap();
        assert_eq!(budget.used(), before + 100 + PARTITION_BYTES);
        let (mut wanted, _) = sessions.take(id, 1, false, 0).unwrap();
        wanted.forget(&name, uuid::Uuid::nil(), &[0]);
        sessions.put_back(id, wanted);
        // The place stays for the next.
        assert_eq!(budget.used(), before + PARTITION_BYTES);
    }

    #[test]
    fn epochs_go_round_without_those_that_mean_something_else() {
        assert_eq!([next(EPOCH_INITIAL), next(7), next(i32::MAX)], [1, 8, 1]);
    }
}
