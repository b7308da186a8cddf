//! The edges of a sub-topology, where bytes become typed records and typed records become bytes.
//!
//! Here nulls meet the types: a null that a codec has no item for is dropped and counted. A table is restored from
//! its topic by the fold that it was processed with.

use super::{
    Context, Downstream, EventTimes, Fallible, Followers, KeyBytes, Process, ProcessError, RecordView,
    Timestamps, TopicId, context::OutputHead,
};
use crate::{
    codec::{CodecError, Data, SharedCodec},
    record::Meta,
    store::{Fold, Handle, RowId, Stores},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A source whose types are forgotten.
pub(crate) trait Source: Send {
    fn process(&mut self, cx: &mut Context<'_>, record: RecordView<'_>);

    /// Takes a record that has been processed before into the table that is kept of the topic, if one is, and does
    /// nothing else.
    fn restore(&mut self, _stores: &Stores, _record: RecordView<'_>) {}

    /// What takes the event times of its records, if they are not the records' own timestamps.
    fn event_times(&self) -> Option<&dyn EventTimes> {
        None
    }
}

/// Records of a topic as a stream.
pub(crate) struct RecordSource<K, V> {
    pub(crate) at: Fallible,
    pub(crate) codecs: (SharedCodec<K>, SharedCodec<V>),
    pub(crate) timestamps: Option<Timestamps<K, V>>,
    /// Whether this application has written the topic.
    pub(crate) is_own: bool,
    pub(crate) down: Downstream<K, V>,
}

/// Decodes, or returns `None` when the bytes are null and the codec has no null.
pub(super) fn decode<T: Data>(codec: &SharedCodec<T>, bytes: Option<&[u8]>) -> Result<Option<T>, CodecError> {
    match bytes {
        Some(bytes) => codec.decode(bytes).map(Some),
        None => Ok(codec.null()),
    }
}

impl<K: Data, V: Data> Source for RecordSource<K, V> {
    fn process(&mut self, cx: &mut Context<'_>, record: RecordView<'_>) {
        let key = match decode(&self.codecs.0, record.key) {
            Ok(Some(key)) => key,
            Ok(None) => return cx.counters.null_keys += 1,
            Err(error) => return cx.undecodable(&self.at, error),
        };
        let value = match decode(&self.codecs.1, record.value) {
            Ok(Some(value)) => value,
            Ok(None) => return cx.counters.null_values += 1,
            Err(error) => return cx.undecodable(&self.at, error),
        };
        cx.enter(record);
        if self.is_own {
            cx.keep_key(record.key);
        }
        self.down.forward(cx, key, value);
    }

    fn event_times(&self) -> Option<&dyn EventTimes> {
        self.timestamps.as_ref().map(|timestamps| timestamps as &dyn EventTimes)
    }
}

/// Keeps the rows of a table and tells who is behind it what has changed.
pub(crate) struct Rows<K, V> {
    pub(crate) store: Handle<V>,
    pub(crate) send_old: bool,
    pub(crate) down: Followers<K, V>,
}

impl<K: Data, V: Data> Rows<K, V> {
    /// Sets a row, or with `None` deletes it.
    fn set(&mut self, stores: &Stores, key: (&K, &[u8]), new: Option<V>, timestamp: i64) -> Option<RowId> {
        let (row, _) = stores.get_mut(self.store).update(key.1, |old, _| {
            if self.send_old {
                self.down.before(key.0, old.as_ref());
            }
            (new, timestamp)
        });
        row
    }

    /// Shows the row that was set.
    fn show(&mut self, cx: &mut Context<'_>, key: K, row: Option<RowId>) {
        if !self.down.is_empty() {
            let store = cx.stores.get(self.store);
            self.down.after(cx, key, store.value(row));
        }
    }
}

/// Records of a topic as the changes of a table.
pub(crate) struct TableSource<K, V> {
    pub(crate) at: Fallible,
    pub(crate) fold: Fold<K, V>,
    pub(crate) timestamps: Option<Timestamps<K, V>>,
    pub(crate) rows: Rows<K, V>,
}

impl<K: Data, V: Data> Source for TableSource<K, V> {
    fn process(&mut self, cx: &mut Context<'_>, record: RecordView<'_>) {
        match self.fold.row(record.key, record.value, record.timestamp) {
            Ok((key, encoded, value)) => {
                cx.enter(record);
                let row = self.rows.set(cx.stores, (&key, encoded), value, record.timestamp);
                self.rows.show(cx, key, row);
            }
            Err(dropped) => cx.dropped(&self.at, dropped),
        }
    }

    fn restore(&mut self, stores: &Stores, record: RecordView<'_>) {
        // What is dropped was dropped and counted when it was processed.
        if let Ok((_, encoded, value)) = self.fold.row(record.key, record.value, record.timestamp) {
            stores.get_mut(self.rows.store).put(encoded, value, record.timestamp);
        }
    }

    fn event_times(&self) -> Option<&dyn EventTimes> {
        self.timestamps.as_ref().map(|timestamps| timestamps as &dyn EventTimes)
    }
}

/// A stream that becomes a table inside a sub-topology.
pub(crate) struct StreamToTable<K, V> {
    pub(crate) name: Arc<str>,
    pub(crate) keys: KeyBytes<K>,
    pub(crate) rows: Rows<K, V>,
}

impl<K: Data, V: Data, V1: Into<Option<V>>> Process<K, V1> for StreamToTable<K, V> {
    fn process(&mut self, cx: &mut Context<'_>, key: K, value: V1) {
        let row = match self.keys.of(cx, &key) {
            Ok(Some(encoded)) => self.rows.set(cx.stores, (&key, encoded), value.into(), cx.timestamp),
            Ok(None) => return cx.counters.null_keys += 1,
            Err(source) => {
                return cx.fail(ProcessError::Encode { operator: Arc::clone(&self.name), source });
            }
        };
        self.rows.show(cx, key, row);
    }
}

/// What a sink does with records that have no key.
#[derive(Debug, Clone)]
pub(crate) enum NullKeys {
    /// Writes them.
    Keep,
    /// Drops and counts them, as before an operator that needs keys, unless a left join behind it wants them.
    DropUnless(Arc<AtomicBool>),
}

/// Encodes and writes a record; without a key or value, a null.
fn write<K: Data, V: Data>(
    cx: &mut Context<'_>,
    head: OutputHead<'_>,
    (keys, values): &(SharedCodec<K>, SharedCodec<V>),
    (key, value): (Option<K>, Option<V>),
) {
    cx.emit(
        head,
        |out| key.map_or(Ok(false), |key| keys.encode(&key, out).map(|()| true)),
        |out| value.map_or(Ok(false), |value| values.encode(&value, out).map(|()| true)),
    );
}

/// Writes records to a topic.
pub(crate) struct RecordSink<K, V> {
    pub(crate) name: Arc<str>,
    pub(crate) topic: TopicId,
    pub(crate) codecs: (SharedCodec<K>, SharedCodec<V>),
    pub(crate) null_keys: NullKeys,
    /// Set for repartition topics.
    pub(crate) with_writer: bool,
}

impl<K: Data, V: Data, K1, V1> Process<K1, V1> for RecordSink<K, V>
where
    K1: Into<Option<K>>,
    V1: Into<Option<V>>,
{
    fn process(&mut self, cx: &mut Context<'_>, key: K1, value: V1) {
        let (keys, values) = &self.codecs;
        let key = key.into().filter(|key| !keys.is_null(key));
        let value = value.into().filter(|value| !values.is_null(value));
        if key.is_none()
            && let NullKeys::DropUnless(wanted) = &self.null_keys
            && !wanted.load(Ordering::Relaxed)
        {
            return cx.counters.null_keys += 1;
        }
        let head = OutputHead { topic: self.topic, operator: &self.name, with_writer: self.with_writer };
        write(cx, head, &self.codecs, (key, value));
    }
}

/// A record was to go to a topic that its sink does not know.
#[derive(Debug, thiserror::Error)]
#[error(
    "it is for topic {topic:?}, which is not among the topics of this sink: {known}; name it in to_with(..)"
)]
struct UnknownTopic<'a> {
    topic: &'a str,
    known: String,
}

/// Writes each record to a topic of its own choice.
pub(crate) struct ChoosingSink<F, K, V> {
    pub(crate) at: Fallible,
    pub(crate) topics: BTreeMap<String, TopicId>,
    pub(crate) choose: Arc<F>,
    pub(crate) codecs: (SharedCodec<K>, SharedCodec<V>),
}

impl<F, K: Data, V: Data, K1, V1, T> Process<K1, V1> for ChoosingSink<F, K, V>
where
    F: Fn(&Meta<'_>, &K1, &V1) -> T,
    T: AsRef<str>,
    K1: Into<Option<K>>,
    V1: Into<Option<V>>,
{
    fn process(&mut self, cx: &mut Context<'_>, key: K1, value: V1) {
        let chosen = (self.choose)(&cx.meta(), &key, &value);
        let Some(topic) = self.topics.get(chosen.as_ref()).copied() else {
            let known = self.topics.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return cx.failed(&self.at, &UnknownTopic { topic: chosen.as_ref(), known });
        };
        let key = key.into().filter(|key| !self.codecs.0.is_null(key));
        let value = value.into().filter(|value| !self.codecs.1.is_null(value));
        let head = OutputHead { topic, operator: &self.at.operator, with_writer: false };
        write(cx, head, &self.codecs, (key, value));
    }
}
