//! Aggregates per key and window of event time.
//!
//! Each window decides for itself whether a record is late: it takes records while its end is ahead of the
//! operator's observed stream time less the grace, and while its rows are kept. The clock is part of what a task
//! commits, so a restart decides as the run before it would have.

use super::{Context, Followers, KeyBytes, Process, ProcessError, Windows};
use crate::{
    codec::Data,
    record::{Window, Windowed},
    store::Handle,
};
use std::sync::Arc;

/// Aggregates the records of a stream by key and window.
pub(crate) struct WindowAggregate<F, K, A> {
    pub(crate) name: Arc<str>,
    pub(crate) windows: Windows,
    pub(crate) clock: usize,
    pub(crate) keys: KeyBytes<K>,
    pub(crate) store: Handle<A>,
    pub(crate) send_old: bool,
    pub(crate) next: Arc<F>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) down: Followers<Windowed<K>, A>,
}

impl<F, K: Data, A: Data> WindowAggregate<F, K, A> {
    fn update<V>(&mut self, cx: &mut Context<'_>, (key, value): (K, V), window: Window)
    where
        F: Fn(&K, V, &mut Option<A>),
    {
        let key = Windowed { key, window };
        let length = self.scratch.len();
        self.scratch.extend_from_slice(&window.start.to_be_bytes());
        self.scratch.extend_from_slice(&[0; 4]);
        let (row, timestamp) = cx.stores.get_mut(self.store).modify(&self.scratch, |aggregate, time| {
            if self.send_old {
                self.down.before(&key, aggregate.as_ref());
            }
            (self.next)(&key.key, value, aggregate);
            cx.timestamp.max(time)
        });
        self.scratch.truncate(length);
        if !self.down.is_empty() {
            let store = cx.stores.get(self.store);
            cx.at(timestamp, |cx| self.down.after(cx, key, store.value(row)));
        }
    }
}

impl<F, K: Data, V: Data, A: Data> Process<K, V> for WindowAggregate<F, K, A>
where
    F: Fn(&K, V, &mut Option<A>),
{
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V) {
        match self.keys.of(cx, &key) {
            Ok(Some(encoded)) => {
                self.scratch.clear();
                self.scratch.extend_from_slice(encoded);
            }
            Ok(None) => return cx.counters.null_keys += 1,
            Err(source) => {
                return cx.fail(ProcessError::Encode { operator: Arc::clone(&self.name), source });
            }
        }
        let timestamp = cx.timestamp;
        let stream_time = cx.observe(self.clock, timestamp);
        cx.stores.get_mut(self.store).expire(stream_time);
        let closed = stream_time.saturating_sub(self.windows.grace_ms());
        let mut windows = self.windows.containing(cx.timestamp).peekable();
        let mut record = Some((key, value));
        while let Some(window) = windows.next() {
            // After a kill the clock can be behind the rows: what has expired was counted, and is not counted anew.
            if window.end <= closed || cx.stores.get(self.store).has_expired(window.start) {
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
