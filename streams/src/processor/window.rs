//! Aggregates per key and window of event time.
//!
//! Each window decides for itself whether a record is late: it takes records while its end is ahead of the
//! operator's observed stream time less the grace. The clock is part of what a task commits, so a restart
//! decides as the run before it would have.

use super::{Context, Downstream, Process, ProcessError, Windows};
use crate::{
    codec::{Data, SharedCodec, encode_into},
    record::{Change, Record, Window, Windowed},
    store::Store,
};
use std::{cell::RefCell, rc::Rc, sync::Arc};

/// Aggregates the records of a stream by key and window.
pub(crate) struct WindowAggregate<F, K, A> {
    pub(crate) name: Arc<str>,
    pub(crate) windows: Windows,
    pub(crate) clock: usize,
    pub(crate) keys: SharedCodec<K>,
    pub(crate) store: Rc<RefCell<Store<A>>>,
    pub(crate) send_old: bool,
    pub(crate) next: Arc<F>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) down: Downstream<Windowed<K>, Change<A>>,
}

impl<F, K: Data, A: Data> WindowAggregate<F, K, A> {
    fn update<V>(&mut self, cx: &mut Context, record: Record<K, V>, window: Window)
    where
        F: Fn(&K, V, Option<A>) -> A,
    {
        let Record { key, value, timestamp, headers } = record;
        let length = self.scratch.len();
        self.scratch.extend_from_slice(&window.start.to_be_bytes());
        self.scratch.extend_from_slice(&[0; 4]);
        let (observed, next) = (!self.down.is_empty(), &self.next);
        let send_old = self.send_old && observed;
        let mut old = None;
        let mut store = self.store.borrow_mut();
        let (new, timestamp) = store.update(&self.scratch, |aggregate, time| {
            if send_old {
                old.clone_from(&aggregate);
            }
            (Some(next(&key, value, aggregate)), timestamp.max(time))
        });
        let new = if observed { new.cloned() } else { None };
        drop(store);
        self.scratch.truncate(length);
        if observed {
            let key = Windowed { key, window };
            self.down.forward(cx, Record { key, value: Change { old, new }, timestamp, headers });
        }
    }
}

impl<F, K: Data, V: Data, A: Data> Process<K, V> for WindowAggregate<F, K, A>
where
    F: Fn(&K, V, Option<A>) -> A,
{
    fn process(&mut self, cx: &mut Context, record: Record<K, V>) {
        match encode_into(&*self.keys, &record.key, &mut self.scratch) {
            Ok(Some(_)) => {}
            Ok(None) => return cx.counters.null_keys += 1,
            Err(source) => {
                return cx.fail(ProcessError::Encode { operator: Arc::clone(&self.name), source });
            }
        }
        let stream_time = cx.observe(self.clock, record.timestamp);
        self.store.borrow_mut().expire(stream_time);
        let closed = stream_time.saturating_sub(self.windows.grace_ms());
        let mut windows = self.windows.containing(record.timestamp).peekable();
        let mut record = Some(record);
        while let Some(window) = windows.next() {
            if window.end <= closed {
                cx.counters.late += 1;
                continue;
            }
            let copy = if windows.peek().is_some() { record.clone() } else { record.take() };
            if let Some(record) = copy {
                self.update(cx, record, window);
            }
        }
    }
}
