//! Aggregates of streams, by key and by key and window.

use super::{Stream, Table, Windows, builder::contents_of, stream_join::nullable};
use crate::{
    codec::{Codec, Data, I64, SharedCodec, WindowedKeys},
    processor::{KeyBytes, StreamAggregate, WindowAggregate},
    record::Windowed,
    store::Store,
    topology::{Changelog, Outlet, TopicKind, WiringError},
};
use std::{fmt, sync::Arc};

/// A stream grouped by key, ready to be aggregated. Records without a key or a value are dropped and counted.
pub struct Grouped<K, V> {
    stream: Stream<K, V>,
}

impl<K, V> fmt::Debug for Grouped<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grouped").field(&self.stream).finish()
    }
}

impl<K: Data, V: Data> Grouped<K, V> {
    pub(crate) fn new(stream: Stream<K, V>) -> Grouped<K, V> {
        Grouped { stream }
    }

    /// Number of records per key, kept under `name`.
    pub fn count(&self, name: &str) -> Table<K, i64> {
        self.table("count", name, Arc::new(I64), |_, _, count| *count = Some(count.unwrap_or(0) + 1))
    }

    /// Combines the values of a key; the first is taken as it is.
    pub fn reduce(&self, name: &str, reduce: impl Fn(V, V) -> V + Send + Sync + 'static) -> Table<K, V> {
        let Some(codec) = self.value_codec("reduce", name) else { return self.unusable(name) };
        self.table("reduce", name, codec, move |_, value, kept: &mut Option<V>| {
            *kept = Some(match kept.take() {
                Some(old) => reduce(old, value),
                None => value,
            });
        })
    }

    /// Folds the records of a key into an aggregate that begins as `initial` and is written with `codec`.
    pub fn aggregate<C: Codec>(
        &self,
        name: &str,
        codec: C,
        initial: impl Fn() -> C::Item + Send + Sync + 'static,
        add: impl Fn(&K, V, C::Item) -> C::Item + Send + Sync + 'static,
    ) -> Table<K, C::Item> {
        self.table("aggregate", name, Arc::new(codec), move |key, value, kept: &mut Option<C::Item>| {
            *kept = Some(add(key, value, kept.take().unwrap_or_else(&initial)));
        })
    }

    /// As [`Grouped::aggregate`], by a function that changes the aggregate where it is kept: nothing of it is moved or
    /// copied, however large it is.
    ///
    /// ```
    /// use kappa_streams::{Builder, TestDriver, codec::{I64, Json, Utf8}};
    /// let b = Builder::new("last-three");
    /// let last = b.stream("readings", (Utf8, I64)).group_by_key().aggregate_mut(
    ///     "last-three",
    ///     Json::<Vec<i64>>::new(),
    ///     Vec::new,
    ///     |_, reading, last| {
    ///         last.push(reading);
    ///         if last.len() > 3 {
    ///             last.remove(0);
    ///         }
    ///     },
    /// );
    /// let mut driver = TestDriver::new(&b.build()?).start()?;
    /// let readings = driver.input("readings", (Utf8, I64));
    /// for (time, reading) in [(1, 10), (2, 20), (3, 30), (4, 40)] {
    ///     readings.pipe(&mut driver, "boiler".into(), reading, time)?;
    /// }
    /// assert_eq!(driver.get(&last, &"boiler".into())?.map(|row| row.value), Some(vec![20, 30, 40]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn aggregate_mut<C: Codec>(
        &self,
        name: &str,
        codec: C,
        initial: impl Fn() -> C::Item + Send + Sync + 'static,
        add: impl Fn(&K, V, &mut C::Item) + Send + Sync + 'static,
    ) -> Table<K, C::Item> {
        self.table("aggregate", name, Arc::new(codec), move |key, value, kept: &mut Option<C::Item>| {
            add(key, value, kept.get_or_insert_with(&initial));
        })
    }

    /// Groups by window of event time as well.
    pub fn windowed_by(&self, windows: Windows) -> WindowedGroup<K, V> {
        WindowedGroup { stream: self.stream.clone(), windows }
    }

    fn value_codec(&self, operator: &'static str, name: &str) -> Option<SharedCodec<V>> {
        value_codec(&self.stream, operator, name)
    }

    /// Stands in for a table whose wiring has failed and been reported.
    fn unusable(&self, name: &str) -> Table<K, V> {
        let stream = &self.stream;
        let node = stream.graph.node("unusable", name, &[stream.node]);
        Table::unusable(&stream.graph, node)
    }

    fn table<A: Data>(
        &self,
        operator: &'static str,
        name: &str,
        codec: SharedCodec<A>,
        next: impl Fn(&K, V, &mut Option<A>) + Send + Sync + 'static,
    ) -> Table<K, A> {
        let graph = &self.stream.graph;
        graph.check_name(operator, name);
        let stream = self.stream.by_key(operator, name);
        let node = graph.node(operator, name, &[stream.node]);
        graph.join(stream.node, stream.node, name);
        let Some(keys) = key_codec(&stream, operator, name) else { return Table::unusable(graph, node) };
        let (table, kept) = Table::kept(graph, node, name, (keys, codec), stream.kept_key.clone());
        let (values, next) = (nullable(&stream.codecs.1), Arc::new(next));
        stream.outlet.add(Box::new(move |assembly| {
            let keyed = kept(assembly);
            Box::new(StreamAggregate { keyed, values: values.clone(), next: Arc::clone(&next) })
        }));
        table
    }
}

fn key_codec<K: Data, V: Data>(
    stream: &Stream<K, V>,
    operator: &'static str,
    name: &str,
) -> Option<SharedCodec<K>> {
    if stream.codecs.0.is_none() && !stream.rekeyed {
        stream.graph.error(WiringError::Codec { operator, name: name.to_owned(), what: "keys" });
    }
    stream.codecs.0.clone()
}

fn value_codec<K: Data, V: Data>(
    stream: &Stream<K, V>,
    operator: &'static str,
    name: &str,
) -> Option<SharedCodec<V>> {
    if stream.codecs.1.is_none() {
        stream.graph.error(WiringError::Codec { operator, name: name.to_owned(), what: "values" });
    }
    stream.codecs.1.clone()
}

/// A stream grouped by key and window. Records without a key are dropped and counted, late ones per window.
pub struct WindowedGroup<K, V> {
    stream: Stream<K, V>,
    windows: Windows,
}

impl<K, V> fmt::Debug for WindowedGroup<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowedGroup").field("stream", &self.stream).field("windows", &self.windows).finish()
    }
}

impl<K: Data, V: Data> WindowedGroup<K, V> {
    /// Number of records per key and window, kept under `name`.
    pub fn count(&self, name: &str) -> Table<Windowed<K>, i64> {
        self.table("windowed count", name, Arc::new(I64), |_, _, count| *count = Some(count.unwrap_or(0) + 1))
    }

    /// Combines the values of a key and window; the first is taken as it is.
    pub fn reduce(
        &self,
        name: &str,
        reduce: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> Table<Windowed<K>, V> {
        let Some(codec) = value_codec(&self.stream, "windowed reduce", name) else {
            let node = self.stream.graph.node("unusable", name, &[self.stream.node]);
            return Table::unusable(&self.stream.graph, node);
        };
        self.table("windowed reduce", name, codec, move |_, value, kept: &mut Option<V>| {
            *kept = Some(match kept.take() {
                Some(old) => reduce(old, value),
                None => value,
            });
        })
    }

    /// Folds the records of a key and window into an aggregate that begins as `initial`.
    pub fn aggregate<C: Codec>(
        &self,
        name: &str,
        codec: C,
        initial: impl Fn() -> C::Item + Send + Sync + 'static,
        add: impl Fn(&K, V, C::Item) -> C::Item + Send + Sync + 'static,
    ) -> Table<Windowed<K>, C::Item> {
        self.table(
            "windowed aggregate",
            name,
            Arc::new(codec),
            move |key, value, kept: &mut Option<C::Item>| {
                *kept = Some(add(key, value, kept.take().unwrap_or_else(&initial)));
            },
        )
    }

    /// As [`WindowedGroup::aggregate`], by a function that changes the aggregate where it is kept.
    pub fn aggregate_mut<C: Codec>(
        &self,
        name: &str,
        codec: C,
        initial: impl Fn() -> C::Item + Send + Sync + 'static,
        add: impl Fn(&K, V, &mut C::Item) + Send + Sync + 'static,
    ) -> Table<Windowed<K>, C::Item> {
        let codec = Arc::new(codec);
        self.table("windowed aggregate", name, codec, move |key, value, kept: &mut Option<C::Item>| {
            add(key, value, kept.get_or_insert_with(&initial));
        })
    }

    fn table<A: Data>(
        &self,
        operator: &'static str,
        name: &str,
        codec: SharedCodec<A>,
        next: impl Fn(&K, V, &mut Option<A>) + Send + Sync + 'static,
    ) -> Table<Windowed<K>, A> {
        let (graph, windows) = (&self.stream.graph, self.windows);
        graph.check_name(operator, name);
        if let Some(reason) = windows.broken_rule() {
            graph.error(WiringError::Windows {
                name: name.to_owned(),
                reason,
                size_ms: windows.size_ms(),
                advance_ms: windows.advance_ms(),
                grace_ms: windows.grace_ms(),
                retention_ms: windows.retention_ms(),
            });
        }
        let stream = self.stream.by_key(operator, name);
        let node = graph.node(operator, name, &[stream.node]);
        graph.timed(node, windows.grace_ms());
        graph.join(stream.node, stream.node, name);
        let Some(keys) = key_codec(&stream, operator, name) else { return Table::unusable(graph, node) };
        let rows = contents_of(&(Arc::clone(&keys), Arc::clone(&codec)));
        graph.contents(node, format!("{rows}, {}", windows.describe()));
        let retention = windows.retention_ms();
        let changelog = graph.topic(name, TopicKind::Changelog { retention_ms: Some(retention) });
        let store = graph.store(name, node, Changelog::Own(changelog));
        let outlet = Outlet::new();
        let of_store = Arc::clone(&codec);
        let make =
            move |def: &Arc<str>| Store::windowed(Arc::clone(def), Arc::clone(&of_store), true, retention);
        let of_lookup = make.clone();
        let lookup = Table::stored(move |assembly| assembly.store(store, |def| of_lookup(&def.name)));
        let table_keys: SharedCodec<Windowed<K>> =
            Arc::new(WindowedKeys::in_store(Arc::clone(&keys), windows.size_ms()));
        let table = Table::new(graph, node, Arc::clone(&outlet), (table_keys, codec), lookup);
        let (name, send_old, next) = (graph.name(node), table.send_old(), Arc::new(next));
        let kept_key = stream.kept_key.clone();
        stream.outlet.add(Box::new(move |assembly| {
            Box::new(WindowAggregate {
                name: Arc::clone(&name),
                windows,
                clock: assembly.clock(&name),
                keys: KeyBytes::new(&keys, &kept_key),
                store: assembly.store(store, |def| make(&def.name)),
                send_old: send_old.get(),
                next: Arc::clone(&next),
                scratch: Vec::new(),
                down: outlet.assemble(assembly),
            })
        }));
        table
    }
}
