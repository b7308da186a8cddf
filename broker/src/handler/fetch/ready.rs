//! Who of many became ready: one list for all that one fetch waits for.
//!
//! Each partition holds a waker of its own; what it wakes is one entry in the list, and the task that reads the list. So
//! a wake costs what became ready, however much is waited for. Invariant: what was woken stays in the list until it is
//! taken, whether or not a task waits. It knows numbers, not partitions.

use parking_lot::Mutex;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

/// The numbers that were woken and not taken yet, in order.
#[derive(Debug, Default)]
pub(super) struct ReadyList(Mutex<Ready>);

#[derive(Debug, Default)]
struct Ready {
    woken: Vec<u32>,
    task: Option<Waker>,
}

impl ReadyList {
    /// A waker that puts `number` in the list.
    pub(super) fn waker(self: &Arc<Self>, number: u32) -> Waker {
        Waker::from(Arc::new(Entry { list: self.clone(), number }))
    }

    /// Moves what was woken to `into`; if that is nothing, the task of `cx` is woken by the next.
    pub(super) fn take(&self, into: &mut Vec<u32>, cx: Option<&Context<'_>>) {
        let mut ready = self.0.lock();
        into.append(&mut ready.woken);
        ready.task = cx.filter(|_| into.is_empty()).map(|cx| cx.waker().clone());
    }
}

#[derive(Debug)]
struct Entry {
    list: Arc<ReadyList>,
    number: u32,
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let task = {
            let mut ready = self.list.0.lock();
            ready.woken.push(self.number);
            ready.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}
