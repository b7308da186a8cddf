//! Joins of streams with tables.
//!
//! Only the stream's records trigger; the table is looked up as it is then. A stream whose keys have changed is
//! repartitioned under the join's name, with the table's key codec.

use super::{GlobalTable, Stream, Table};
use crate::{
    codec::Data,
    processor::{GlobalJoin, JoinKind, KeyBytes, TableJoin},
    topology::WiringError,
};
use std::sync::Arc;

impl<K: Data, V: Data> Stream<K, V> {
    /// Joins each record with the table's row of the same key; records without one are dropped.
    ///
    /// `name` names the join and, should one be needed, its repartition topic.
    pub fn join_table<T: Data, R: Data>(
        &self,
        name: &str,
        table: &Table<K, T>,
        joiner: impl Fn(&K, V, &T) -> R + Send + Sync + 'static,
    ) -> Stream<K, R> {
        self.table_join(name, JoinKind::Inner, table, move |key, value, row| {
            row.map(|row| joiner(key, value, row))
        })
    }

    /// Joins each record with the table's row of the same key, or with `None`. A record without a key has no row.
    pub fn left_join_table<T: Data, R: Data>(
        &self,
        name: &str,
        table: &Table<K, T>,
        joiner: impl Fn(&K, V, Option<&T>) -> R + Send + Sync + 'static,
    ) -> Stream<K, R> {
        self.wants_null_keys();
        self.table_join(name, JoinKind::Left, table, move |key, value, row| Some(joiner(key, value, row)))
    }

    fn table_join<T: Data, R: Data>(
        &self,
        name: &str,
        kind: JoinKind,
        table: &Table<K, T>,
        joiner: impl Fn(&K, V, Option<&T>) -> Option<R> + Send + Sync + 'static,
    ) -> Stream<K, R> {
        self.graph.check_name("join", name);
        if !self.graph.is_same(&table.graph) {
            self.graph.error(WiringError::ForeignBuilder { operator: "join", name: name.to_owned() });
        }
        let keyed =
            Stream { codecs: (Some(Arc::clone(&table.codecs.0)), self.codecs.1.clone()), ..self.clone() };
        let stream = keyed.by_key("join", name);
        if kind == JoinKind::Left {
            stream.wants_null_keys();
        }
        let node = stream.graph.node("join", name, &[stream.node, table.node]);
        stream.graph.timed(node, i64::MAX);
        stream.graph.join(stream.node, table.node, name);
        let (keys, values) = (Arc::clone(&table.codecs.0), nullable(&stream.codecs.1));
        let (joiner, lookup, name) = (Arc::new(joiner), Arc::clone(&table.lookup), stream.graph.name(node));
        let kept_key = stream.kept_key.clone();
        stream.child_of_key(node, (Some(Arc::clone(&keys)), None), move |assembly, down| {
            Box::new(TableJoin {
                name: Arc::clone(&name),
                kind,
                keys: KeyBytes::new(&keys, &kept_key),
                values: values.clone(),
                table: lookup(assembly),
                joiner: Arc::clone(&joiner),
                down,
            })
        })
    }

    /// Joins each record with the global table's row of the key that `key` takes from it; records without a row are
    /// dropped. `key` may return the key or an `Option` of it.
    pub fn join_global<G: Data, T: Data, R: Data, M: Into<Option<G>>>(
        &self,
        name: &str,
        table: &GlobalTable<G, T>,
        key: impl Fn(&K, &V) -> M + Send + Sync + 'static,
        joiner: impl Fn(&K, V, &T) -> R + Send + Sync + 'static,
    ) -> Stream<K, R> {
        self.global_join(name, JoinKind::Inner, table, key, move |key, value, row| {
            row.map(|row| joiner(key, value, row))
        })
    }

    /// Joins each record with the global table's row of the key that `key` takes from it, or with `None`. A record
    /// that has a key, but from which `key` takes none, is dropped and counted.
    pub fn left_join_global<G: Data, T: Data, R: Data, M: Into<Option<G>>>(
        &self,
        name: &str,
        table: &GlobalTable<G, T>,
        key: impl Fn(&K, &V) -> M + Send + Sync + 'static,
        joiner: impl Fn(&K, V, Option<&T>) -> R + Send + Sync + 'static,
    ) -> Stream<K, R> {
        self.wants_null_keys();
        self.global_join(name, JoinKind::Left, table, key, move |key, value, row| {
            Some(joiner(key, value, row))
        })
    }

    fn global_join<G: Data, T: Data, R: Data, M: Into<Option<G>>>(
        &self,
        name: &str,
        kind: JoinKind,
        table: &GlobalTable<G, T>,
        key: impl Fn(&K, &V) -> M + Send + Sync + 'static,
        joiner: impl Fn(&K, V, Option<&T>) -> Option<R> + Send + Sync + 'static,
    ) -> Stream<K, R> {
        self.graph.check_name("join", name);
        let node = self.graph.node("global join", name, &[self.node]);
        let (keys, values) = (nullable(&self.codecs.0), nullable(&self.codecs.1));
        let (mapper, joiner) = (Arc::new(move |k: &K, v: &V| key(k, v).into()), Arc::new(joiner));
        let (global_keys, index, name) = (Arc::clone(&table.key), table.index, self.graph.name(node));
        self.child_of_key(node, (self.codecs.0.clone(), None), move |assembly, down| {
            Box::new(GlobalJoin {
                name: Arc::clone(&name),
                kind,
                keys: keys.clone(),
                values: values.clone(),
                global_keys: Arc::clone(&global_keys),
                global: assembly.global::<T>(index),
                mapper: Arc::clone(&mapper),
                joiner: Arc::clone(&joiner),
                scratch: Vec::new(),
                down,
            })
        })
    }
}

/// The codec, if its type has a null that operators must look for.
pub(crate) fn nullable<T: Data>(
    codec: &Option<crate::codec::SharedCodec<T>>,
) -> Option<crate::codec::SharedCodec<T>> {
    codec.clone().filter(|codec| codec.null().is_some())
}
