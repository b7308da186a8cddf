//! Bytes of one kind under one limit, such as the memory of all connections: who holds how many, and who waits for some.
//!
//! Invariants: nobody who waits is passed by another who would have to wait, but by one who holds little; what a [`Share`]
//! holds is given back when it is dropped; giving back wakes whoever is first in line. The last part of the memory is for
//! those who hold little, so that they need not wait for those who hold much and let go of nothing. Nobody waits for what
//! those hold who themselves wait for more to give it back ([`Parked`]), so that those who wait never wait for each other. It
//! counts bytes and knows neither what they are nor where they lie.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// The part of what is free that one reservation may have, so that many can be served at a time.
const PART_MAX: usize = 16;
/// The part that only those may have who hold little.
const SPARE_PART: usize = 16;
/// What is little.
const LITTLE_BYTES: usize = 64 * 1024;
/// What a reservation gets at least, if it asks for as much.
const PART_BYTES_MIN: usize = 64 * 1024;

/// Bytes that all connections hold together.
#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    used: AtomicUsize,
    /// Of these, what is held by those who wait for more.
    parked: AtomicUsize,
    /// How many stand in line, readable without its lock.
    waiting: AtomicUsize,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<u64, Waker>,
    numbers: u64,
}

impl Budget {
    /// At most `max` bytes.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            used: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
        })
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Bytes that may be held.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for bytes that others hold.
    pub(crate) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether more is held than should be.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.max
    }

    /// Whether what is idle is better given back.
    pub(crate) fn is_half_full(&self) -> bool {
        self.used() >= self.max / 2
    }

    /// Counts bytes that are nobody's share.
    pub(crate) fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were added are no more.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.wake_first();
    }

    /// A share that holds nothing yet.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: 0, number: None }
    }

    /// Bytes for a part of up to `wanted` bytes, less if little is free; waits while hardly anything is.
    pub(crate) async fn reserve(self: &Arc<Self>, wanted: usize) -> Share {
        let mut share = self.share();
        poll_fn(|cx| share.poll_part(cx, wanted)).await;
        share
    }

    /// All of `wanted` bytes, in its turn; what is larger than half of all comes once half of it is free.
    pub(crate) async fn reserve_whole(self: &Arc<Self>, wanted: usize) -> Share {
        let mut share = self.share();
        poll_fn(|cx| share.poll_turn(cx, |share| share.take_whole(wanted))).await;
        share
    }

    /// Who holds `bytes` waits for more, which alone gives them back.
    pub(crate) fn park(self: &Arc<Self>, bytes: usize) -> Parked {
        self.parked.fetch_add(bytes, Ordering::Relaxed);
        self.wake_first();
        Parked { budget: self.clone(), bytes }
    }

    /// Like [`Budget::reserve`], `None` where that would wait.
    pub(crate) fn try_reserve(self: &Arc<Self>, wanted: usize) -> Option<Share> {
        let mut share = self.share();
        let may_pass = !self.is_short() || self.is_little(wanted);
        (may_pass && share.take_part(wanted)).then_some(share)
    }

    fn part(&self, wanted: usize) -> usize {
        let free = self.common_max().saturating_sub(self.waited_for());
        let least = wanted.min(PART_BYTES_MIN).min(self.max / 2);
        wanted.min((free / PART_MAX).max(least))
    }

    /// Bytes that may be held while somebody who holds much takes more.
    fn common_max(&self) -> usize {
        self.max - self.max / SPARE_PART
    }

    /// Whether somebody who then holds `held` may take `bytes` of it.
    fn has_room(&self, held: usize, bytes: usize) -> bool {
        let max = if self.is_little(held) { self.max } else { self.common_max() };
        self.waited_for() + bytes <= max
    }

    /// Bytes that are given back by and by.
    fn waited_for(&self) -> usize {
        self.used().saturating_sub(self.parked.load(Ordering::Relaxed))
    }

    fn is_little(&self, held: usize) -> bool {
        held <= LITTLE_BYTES.min(self.max / PART_MAX)
    }

    fn wake_first(&self) {
        if self.is_short()
            && let Some((_, first)) = self.line.lock().waiting.first_key_value()
        {
            first.wake_by_ref();
        }
    }
}

/// Bytes held by somebody who waits for more.
#[derive(Debug)]
pub(crate) struct Parked {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.budget.parked.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What one holder has of a budget.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
    /// Its number in line while it waits.
    number: Option<u64>,
}

impl Share {
    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds `bytes`: counts what is there, without asking whether it may be.
    pub(crate) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes >= before {
            self.budget.add(bytes - before);
        } else {
            self.budget.give_back(before - bytes);
        }
    }

    /// Resolves when `bytes` more would be within the limit and nobody waits before; it does not hold them then.
    pub(crate) fn poll_room(&mut self, cx: &Context<'_>, bytes: usize) -> Poll<()> {
        let held = self.bytes + bytes;
        let has_room = |share: &mut Self| {
            // What is larger than the whole may come while there is anything left.
            share.budget.has_room(held, bytes.min(share.budget.max / 2))
        };
        if self.budget.is_little(held) && has_room(self) {
            self.leave_line();
            return Poll::Ready(());
        }
        self.poll_turn(cx, has_room)
    }

    /// Takes a part of up to `wanted` bytes in its turn.
    fn poll_part(&mut self, cx: &Context<'_>, wanted: usize) -> Poll<()> {
        self.poll_turn(cx, |share| share.take_part(wanted))
    }

    fn take_part(&mut self, wanted: usize) -> bool {
        let part = self.budget.part(wanted);
        let fits = self.budget.has_room(self.bytes + part, part);
        if fits {
            self.set(self.bytes + part);
        }
        fits
    }

    fn take_whole(&mut self, wanted: usize) -> bool {
        let fits = self.budget.has_room(self.bytes + wanted, wanted.min(self.budget.max / 2));
        if fits {
            self.set(self.bytes + wanted);
        }
        fits
    }

    fn poll_turn(&mut self, cx: &Context<'_>, take: impl Fn(&mut Self) -> bool) -> Poll<()> {
        if self.number.is_none() && !self.budget.is_short() && take(self) {
            return Poll::Ready(());
        }
        let budget = self.budget.clone();
        let number = {
            let mut line = budget.line.lock();
            let number = self.number.unwrap_or_else(|| {
                line.numbers += 1;
                line.numbers
            });
            line.waiting.insert(number, cx.waker().clone());
            budget.waiting.store(line.waiting.len(), Ordering::SeqCst);
            self.number = Some(number);
            if line.waiting.first_key_value().is_some_and(|(first, _)| *first != number) {
                return Poll::Pending;
            }
            number
        };
        // In line before it looks, so that bytes given back in between wake it.
        if !take(self) {
            return Poll::Pending;
        }
        debug_assert_eq!(self.number, Some(number));
        self.leave_line();
        Poll::Ready(())
    }

    /// Waits no longer.
    pub(crate) fn leave_line(&mut self) {
        let Some(number) = self.number.take() else { return };
        let mut line = self.budget.line.lock();
        line.waiting.remove(&number);
        self.budget.waiting.store(line.waiting.len(), Ordering::SeqCst);
        drop(line);
        self.budget.wake_first();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
        self.leave_line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waker() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (count.clone(), Waker::from(count))
    }

    #[test]
    fn those_who_wait_are_served_in_line_and_woken_by_what_is_given_back() {
        let budget = Budget::new(1000);
        let mut holder = budget.share();
        holder.set(900);
        let ((first_woken, first_waker), (second_woken, second_waker)) = (waker(), waker());
        let (mut first_cx, mut second_cx) =
            (Context::from_waker(&first_waker), Context::from_waker(&second_waker));
        let (mut first, mut second) = (budget.share(), budget.share());
        assert!(first.poll_room(&first_cx, 200).is_pending());
        holder.set(800);
        assert_eq!((first_woken.0.load(Ordering::Relaxed), second_woken.0.load(Ordering::Relaxed)), (1, 0));
        // It would fit, but another came before.
        assert!(second.poll_room(&second_cx, 100).is_pending());
        assert!(budget.try_reserve(100).is_none());
        holder.set(700);
        assert!(first.poll_room(&first_cx, 200).is_ready());
        assert_eq!(second_woken.0.load(Ordering::Relaxed), 1);
        assert!(second.poll_room(&second_cx, 100).is_ready());
        assert!(!budget.is_short());
        let _ = (&mut first_cx, &mut second_cx);
    }

    #[test]
    fn who_leaves_the_line_makes_way_and_gives_everything_back() {
        let budget = Budget::new(1000);
        let mut holder = budget.share();
        holder.set(1000);
        let (woken, waker) = waker();
        let cx = Context::from_waker(&waker);
        let (mut first, mut second) = (budget.share(), budget.share());
        assert!(first.poll_room(&cx, 100).is_pending());
        assert!(second.poll_room(&cx, 100).is_pending());
        drop(first);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        drop(holder);
        assert_eq!(budget.used(), 0);
        assert!(second.poll_room(&cx, 100).is_ready());
    }

    #[test]
    fn who_holds_little_does_not_wait_for_those_who_hold_much() {
        let budget = Budget::new(1000);
        let (_, waker) = waker();
        let cx = Context::from_waker(&waker);
        let hold = |count: usize, bytes: usize| {
            let mut holders: Vec<Share> = Vec::new();
            for _ in 0..count {
                let mut holder = budget.share();
                if holder.poll_room(&cx, bytes).is_ready() {
                    holder.set(bytes);
                    holders.push(holder);
                }
            }
            holders
        };
        let holders = hold(9, 100);
        let mut much = budget.share();
        assert!(holders.len() == 9 && much.poll_room(&cx, 100).is_pending());
        let little = hold(3, 50);
        assert_eq!(little.len(), 2);
        assert!(budget.share().poll_room(&cx, 1).is_pending(), "the whole is taken");
        assert!(much.poll_room(&cx, 100).is_pending());
    }

    #[test]
    fn those_who_wait_for_more_do_not_wait_for_each_other() {
        let budget = Budget::new(1000);
        let (_, waker) = waker();
        let mut cx = Context::from_waker(&waker);
        let mut holders: Vec<Share> = (0..3).map(|_| budget.share()).collect();
        holders.iter_mut().for_each(|holder| holder.set(300));
        let mut first = std::pin::pin!(budget.reserve_whole(200));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        let parked = budget.park(300);
        let Poll::Ready(more) = first.as_mut().poll(&mut cx) else { panic!("it waits for itself") };
        assert_eq!(more.bytes(), 200);
        drop(parked);
        assert_eq!((budget.used(), budget.parked.load(Ordering::Relaxed)), (1100, 0));
        // Larger than the whole: once half is free.
        let mut huge = std::pin::pin!(budget.reserve_whole(5000));
        assert!(huge.as_mut().poll(&mut cx).is_pending());
        drop((holders, more));
        assert!(huge.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn parts_shrink_as_less_is_free_and_never_pass_the_limit() {
        let budget = Budget::new(64 * 1024 * 1024);
        let mut parts = Vec::new();
        while let Some(part) = budget.try_reserve(50 << 20) {
            parts.push(part);
            assert!(budget.used() <= 64 * 1024 * 1024);
        }
        assert!(parts.len() > 60, "{}", parts.len());
        assert!(
            parts[0].bytes() == (60 << 20) / PART_MAX && parts.is_sorted_by(|a, b| a.bytes() >= b.bytes())
        );
        assert_eq!(parts.last().unwrap().bytes(), PART_BYTES_MIN);
    }
}
