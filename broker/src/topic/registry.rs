//! The topics that can be reached: lookups by name, by id, by partition.
//!
//! Invariant: a topic is in the registry only while its catalog record is durable and its directories exist. The
//! catalog's worker alone adds and removes; everyone else looks up. Knows nothing of records or configs' meaning.

use super::record::TopicEntry;
use super::{CATALOG_TOPIC, OFFSETS_TOPIC};
use crate::config::Overrides;
use crate::partition::Partition;
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

/// The partitions of a topic by index.
pub(crate) type Partitions = Vec<Arc<Partition>>;

/// A topic that clients can reach.
#[derive(Debug)]
pub(crate) struct Topic {
    /// Its id, which a topic of the same name created later does not share.
    pub(crate) id: Uuid,
    /// Its name.
    pub(crate) name: Arc<str>,
    partitions: ArcSwap<Partitions>,
    overrides: ArcSwap<Overrides>,
}

impl Topic {
    pub(super) fn new(id: Uuid, name: Arc<str>, partitions: Partitions, overrides: Overrides) -> Arc<Self> {
        let (partitions, overrides) = (ArcSwap::from_pointee(partitions), ArcSwap::from_pointee(overrides));
        Arc::new(Self { id, name, partitions, overrides })
    }

    /// The partition of this index.
    pub(crate) fn partition(&self, index: i32) -> Option<Arc<Partition>> {
        let index = usize::try_from(index).ok()?;
        self.partitions.load().get(index).cloned()
    }

    /// All partitions, by index, as they are now.
    pub(crate) fn partitions(&self) -> Arc<Partitions> {
        self.partitions.load_full()
    }

    /// The topic's own settings.
    pub(crate) fn overrides(&self) -> Arc<Overrides> {
        self.overrides.load_full()
    }

    /// The topic as the catalog records it.
    pub(super) fn entry(&self) -> TopicEntry {
        let partitions = i32::try_from(self.partitions().len()).unwrap_or(i32::MAX);
        TopicEntry { name: self.name.to_string(), partitions, configs: (*self.overrides()).clone() }
    }

    /// Whether it belongs to the broker rather than to clients.
    pub(crate) fn is_internal(&self) -> bool {
        is_internal(&self.name)
    }

    /// Whether who asks for all topics is told of it. The catalog is what Kafka keeps in `__cluster_metadata`, which its
    /// listings leave out: tools that mirror, count or delete whatever is listed would trip over it.
    pub(crate) fn is_listed(&self) -> bool {
        &*self.name != CATALOG_TOPIC
    }

    pub(super) fn set_partitions(&self, partitions: Partitions) {
        self.partitions.store(Arc::new(partitions));
    }

    pub(super) fn set_overrides(&self, overrides: Overrides) {
        self.overrides.store(Arc::new(overrides));
    }
}

/// Whether a topic of this name belongs to the broker.
pub(crate) fn is_internal(name: &str) -> bool {
    name == CATALOG_TOPIC || name == OFFSETS_TOPIC
}

#[derive(Debug, Default)]
struct Index {
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    by_id: HashMap<Uuid, Arc<Topic>>,
}

/// Told the names of topics that are gone, before the names are free. It may wait for the disk. Returns whether nothing
/// is left of them; it is told again otherwise.
type DeletionListener = Box<dyn Fn(&BTreeSet<Arc<str>>) -> bool + Send + Sync>;

/// All topics.
#[derive(Default)]
pub(crate) struct Registry {
    index: RwLock<Index>,
    on_deletion: OnceLock<DeletionListener>,
    /// Names of topics that are gone and of which something is left. The catalog's worker alone waits for this.
    owed: Mutex<BTreeSet<Arc<str>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Registry {
    /// The topic of this name.
    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.index.read().by_name.get(name).cloned()
    }

    /// The topic of this id.
    pub(crate) fn by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.index.read().by_id.get(&id).cloned()
    }

    /// A partition of the topic of this name.
    pub(crate) fn partition(&self, name: &str, index: i32) -> Option<Arc<Partition>> {
        self.index.read().by_name.get(name)?.partition(index)
    }

    /// Every topic, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        self.index.read().by_name.values().cloned().collect()
    }

    /// Number of topics.
    pub(crate) fn count(&self) -> usize {
        self.index.read().by_id.len()
    }

    pub(super) fn insert(&self, topic: Arc<Topic>) {
        let mut index = self.index.write();
        index.by_id.insert(topic.id, topic.clone());
        index.by_name.insert(topic.name.clone(), topic);
    }

    /// Who is told of deletions from here on: the first that asks to be.
    pub(super) fn on_deletion(&self, listener: DeletionListener) {
        let _ = self.on_deletion.set(listener);
    }

    /// Tells of topics that were removed.
    pub(super) fn deleted(&self, topics: &[Arc<Topic>]) {
        self.owe(topics.iter().map(|topic| topic.name.clone()));
        self.settle();
    }

    /// Something is left of topics that had these names.
    pub(super) fn owe(&self, names: impl IntoIterator<Item = Arc<str>>) {
        self.owed.lock().extend(names);
    }

    /// Whether a new topic of this name would have nothing that belonged to an old one. May wait for the disk.
    pub(super) fn is_free(&self, name: &str) -> bool {
        #[cfg(test)]
        if crate::safeguard::Safeguard::OwedOffsets.is_taken_out() {
            return true;
        }
        if self.owed.lock().contains(name) {
            self.settle();
        }
        !self.owed.lock().contains(name)
    }

    fn settle(&self) {
        let mut owed = self.owed.lock();
        if self.on_deletion.get().is_none_or(|listener| owed.is_empty() || listener(&owed)) {
            owed.clear();
        }
    }

    pub(super) fn remove(&self, id: Uuid) -> Option<Arc<Topic>> {
        let mut index = self.index.write();
        let topic = index.by_id.remove(&id)?;
        index.by_name.remove(&topic.name);
        Some(topic)
    }
}
