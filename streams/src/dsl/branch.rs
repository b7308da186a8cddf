//! Splitting a stream by predicates.

use super::Stream;
use crate::{
    codec::Data,
    processor::{Branch, BranchPredicate},
    topology::Outlet,
};
use std::{fmt, sync::Arc};

/// Decides which branch takes a record, see [`when`] and [`otherwise`].
pub struct Predicate<K, V>(BranchPredicate<K, V>);

impl<K, V> fmt::Debug for Predicate<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Predicate")
    }
}

/// A branch for the records for which `predicate` holds.
pub fn when<K, V>(predicate: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Predicate<K, V> {
    Predicate(Arc::new(predicate))
}

/// A branch for all records that no branch before it took.
pub fn otherwise<K, V>() -> Predicate<K, V> {
    Predicate(Arc::new(|_, _| true))
}

impl<K: Data, V: Data> Stream<K, V> {
    /// Splits the stream: each record goes to the first branch that takes it, or nowhere.
    ///
    /// ```
    /// use kappa_streams::{Builder, codec::{I64, Utf8}, otherwise, when};
    /// let numbers = Builder::new("split").stream("numbers", (Utf8, I64));
    /// let [even, odd] = numbers.branch([when(|_, number| number % 2 == 0), otherwise()]);
    /// # let _ = (even, odd);
    /// ```
    pub fn branch<const N: usize>(&self, predicates: [Predicate<K, V>; N]) -> [Stream<K, V>; N] {
        let node = self.node_named("branch");
        let name = self.graph.name(node);
        let branches = predicates.map(|predicate| (predicate.0, Outlet::new()));
        let streams = std::array::from_fn(|number| {
            let child = self.graph.node("branch output", &format!("{name}/{number}"), &[node]);
            let outlet =
                branches.get(number).map(|(_, outlet)| Arc::clone(outlet)).unwrap_or_else(Outlet::new);
            Stream { node: child, outlet, ..self.clone() }
        });
        self.outlet.add(Box::new(move |assembly| {
            let assembled =
                branches.iter().map(|(predicate, outlet)| (Arc::clone(predicate), outlet.assemble(assembly)));
            Box::new(Branch { branches: assembled.collect() })
        }));
        streams
    }
}
