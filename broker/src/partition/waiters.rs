//! Who waits for a partition's offsets to pass a point: producers for the sync, consumers for new records.
//!
//! Invariant: a waiter is here from the poll that found nothing until it is woken or dropped, so that idle waiting
//! costs nothing and a dropped future leaves nothing behind. Wakers are handed out, to be woken without the lock.
//! It knows no runtime, only [`Waker`].

use std::collections::BTreeMap;
use std::task::Waker;

/// Identifies a registered waiter among those of its kind.
pub(super) type WaiterId = (i64, u64);

/// The waiters of one kind, by the offset that they wait for.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: BTreeMap<WaiterId, Waker>,
    registered: u64,
}

impl Waiters {
    /// Registers a waiter for `offset`, or refreshes the waker of one that is still registered.
    pub(super) fn register(&mut self, offset: i64, previous: Option<WaiterId>, waker: &Waker) -> WaiterId {
        if let Some(id) = previous
            && let Some(known) = self.waiting.get_mut(&id)
        {
            known.clone_from(waker);
            return id;
        }
        self.registered += 1;
        let id = (offset, self.registered);
        self.waiting.insert(id, waker.clone());
        id
    }

    /// Forgets a waiter; one that was woken already is fine.
    pub(super) fn deregister(&mut self, id: WaiterId) {
        self.waiting.remove(&id);
    }

    /// Takes the wakers of those who wait for `offset` or an earlier one.
    pub(super) fn reached(&mut self, offset: i64, wakers: &mut Wakers) {
        if self.waiting.first_key_value().is_none_or(|((first, _), _)| *first > offset) {
            return;
        }
        let later = self.waiting.split_off(&(offset.saturating_add(1), 0));
        wakers.0.extend(std::mem::replace(&mut self.waiting, later).into_values());
    }

    /// Takes the wakers of all.
    pub(super) fn all(&mut self, wakers: &mut Wakers) {
        wakers.0.extend(std::mem::take(&mut self.waiting).into_values());
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// Wakers taken under a lock, to be woken after it.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Wakers(Vec<Waker>);

impl Wakers {
    /// Wakes all, tasks that come several times in a row once.
    pub(crate) fn wake(self) {
        let mut wakers = self.0.into_iter().peekable();
        while let Some(waker) = wakers.next() {
            if !wakers.peek().is_some_and(|next| next.will_wake(&waker)) {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn those_whose_offset_is_reached_are_woken_once_per_task() {
        let (one, other) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (waker, other_waker) = (Waker::from(one.clone()), Waker::from(other.clone()));
        let mut waiters = Waiters::default();
        for offset in [5, 6, 7] {
            waiters.register(offset, None, &waker);
        }
        let gone = waiters.register(6, None, &other_waker);
        let kept = waiters.register(9, None, &other_waker);
        assert_eq!(waiters.register(9, Some(kept), &other_waker), kept);
        waiters.deregister(gone);
        let mut wakers = Wakers::default();
        waiters.reached(4, &mut wakers);
        waiters.reached(6, &mut wakers);
        wakers.wake();
        assert_eq!(
            (one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed), waiters.len()),
            (1, 0, 2)
        );
        let mut wakers = Wakers::default();
        waiters.all(&mut wakers);
        wakers.wake();
        assert_eq!(
            (one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed), waiters.len()),
            (2, 1, 0)
        );
    }
}
