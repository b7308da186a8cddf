//! Aggregates of tables: they follow every change of a row, out of its old group and into its new one.

use super::{Table, builder::contents_of};
use crate::{
    codec::{ChangeCodec, Codec, Data, I64, SharedCodec},
    processor::{RecordSource, TableAggregate},
    record::Change,
    topology::{Graph, NodeId, Outlet, StreamOutlet, TopicId},
};
use std::{fmt, sync::Arc};

/// A table grouped by another key, ready to be aggregated.
pub struct GroupedTable<K, V> {
    graph: Graph,
    node: NodeId,
    outlet: Arc<StreamOutlet<K, Change<V>>>,
    codecs: (SharedCodec<K>, SharedCodec<V>),
}

impl<K, V> fmt::Debug for GroupedTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupedTable").field("name", &self.graph.name(self.node)).finish_non_exhaustive()
    }
}

impl<K: Data, V: Data> GroupedTable<K, V> {
    pub(crate) fn new(
        graph: &Graph,
        name: &str,
        topic: TopicId,
        codecs: (SharedCodec<K>, SharedCodec<V>),
    ) -> GroupedTable<K, V> {
        let node = graph.node("repartition source", name, &[]);
        graph.contents(node, format!("changes of {}", contents_of(&codecs)));
        let outlet: Arc<StreamOutlet<K, Change<V>>> = Outlet::new();
        let (children, of_source, name) = (Arc::clone(&outlet), codecs.clone(), graph.name(node));
        graph.source(
            node,
            (topic, false),
            Arc::new(move |assembly| {
                let values: SharedCodec<Change<V>> = Arc::new(ChangeCodec(Arc::clone(&of_source.1)));
                let codecs = (Arc::clone(&of_source.0), values);
                let down = children.assemble(assembly);
                let at = assembly.fallible(&name, None);
                Box::new(RecordSource { at, codecs, timestamps: None, is_own: true, down })
            }),
        );
        GroupedTable { graph: graph.clone(), node, outlet, codecs }
    }

    /// Number of rows per group, kept under `name`.
    pub fn count(&self, name: &str) -> Table<K, i64> {
        self.aggregate(name, I64, || 0, |_, _, count| count + 1, |_, _, count| count - 1)
    }

    /// Folds the rows of a group into an aggregate that begins as `initial`; `subtract` undoes `add`.
    pub fn aggregate<C: Codec>(
        &self,
        name: &str,
        codec: C,
        initial: impl Fn() -> C::Item + Send + Sync + 'static,
        add: impl Fn(&K, V, C::Item) -> C::Item + Send + Sync + 'static,
        subtract: impl Fn(&K, V, C::Item) -> C::Item + Send + Sync + 'static,
    ) -> Table<K, C::Item> {
        let add = move |key: &K, value: V, kept: &mut Option<C::Item>| {
            *kept = Some(add(key, value, kept.take().unwrap_or_else(&initial)));
        };
        let subtract = move |key: &K, value: V, kept: &mut Option<C::Item>| {
            *kept = kept.take().map(|aggregate| subtract(key, value, aggregate));
        };
        self.table("table aggregate", name, Arc::new(codec), add, subtract)
    }

    /// As [`GroupedTable::aggregate`], by functions that change the aggregate where it is kept: nothing of it is moved or
    /// copied, however large it is.
    pub fn aggregate_mut<C: Codec>(
        &self,
        name: &str,
        codec: C,
        initial: impl Fn() -> C::Item + Send + Sync + 'static,
        add: impl Fn(&K, V, &mut C::Item) + Send + Sync + 'static,
        subtract: impl Fn(&K, V, &mut C::Item) + Send + Sync + 'static,
    ) -> Table<K, C::Item> {
        let add = move |key: &K, value: V, kept: &mut Option<C::Item>| {
            add(key, value, kept.get_or_insert_with(&initial));
        };
        let subtract = move |key: &K, value: V, kept: &mut Option<C::Item>| {
            if let Some(aggregate) = kept {
                subtract(key, value, aggregate);
            }
        };
        self.table("table aggregate", name, Arc::new(codec), add, subtract)
    }

    /// Combines the rows of a group; the first is taken as it is. Arguments are the aggregate, then the row.
    pub fn reduce(
        &self,
        name: &str,
        add: impl Fn(V, V) -> V + Send + Sync + 'static,
        subtract: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> Table<K, V> {
        let add = move |_: &K, row: V, kept: &mut Option<V>| {
            *kept = Some(match kept.take() {
                Some(rest) => add(rest, row),
                None => row,
            });
        };
        let subtract = move |_: &K, row: V, kept: &mut Option<V>| {
            *kept = kept.take().map(|aggregate| subtract(aggregate, row));
        };
        self.table("table reduce", name, Arc::clone(&self.codecs.1), add, subtract)
    }

    fn table<A: Data>(
        &self,
        operator: &'static str,
        name: &str,
        codec: SharedCodec<A>,
        add: impl Fn(&K, V, &mut Option<A>) + Send + Sync + 'static,
        subtract: impl Fn(&K, V, &mut Option<A>) + Send + Sync + 'static,
    ) -> Table<K, A> {
        let graph = &self.graph;
        graph.check_name(operator, name);
        let node = graph.node(operator, name, &[self.node]);
        let keys = &self.codecs.0;
        let (table, kept) = Table::kept(graph, node, name, (Arc::clone(keys), codec), Some(Arc::clone(keys)));
        let (add, subtract) = (Arc::new(add), Arc::new(subtract));
        self.outlet.add(Box::new(move |assembly| {
            let (keyed, add, subtract) = (kept(assembly), Arc::clone(&add), Arc::clone(&subtract));
            Box::new(TableAggregate { keyed, add, subtract })
        }));
        table
    }
}
