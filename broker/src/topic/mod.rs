//! Topics: the catalog that says which there are, and the registry through which they are reached.
//!
//! The catalog is a fold of the internal topic `__kappa_catalog` (`record` has its format), changed by one worker, on
//! which a change of many partitions lets short ones go first (`line`). Invariants: what a lookup shows is durable; after a
//! change that panicked there are no more until the broker is started again. This module knows nothing of requests,
//! groups or connections.

mod catalog;
mod error;
mod inventory;
mod line;
mod name;
mod partition_config;
mod record;
mod registry;
mod repair;
mod shorten;
mod start;
mod state;

pub(crate) use catalog::{Catalog, ConfigChange, ConfigOwner, NewTopic};
pub(crate) use error::TopicError;
pub use inventory::Refusal;
pub(crate) use name::TopicName;
pub(crate) use registry::{Topic, is_internal};
pub(crate) use repair::repair;
pub use repair::{Finding, Kept, Repaired};
pub use start::OpenError;
pub(crate) use start::REPAIR;

use crate::config::BrokerLayers;
use crate::log::{Checkpointed, Checkpoints, StorageError, keep_reserve};
use crate::panics::Panics;
use crate::partition::{Partition, PartitionEnv};
use arc_swap::ArcSwap;
use line::{Change, STEP_PARTITIONS};
use parking_lot::Mutex;
use registry::Registry;
use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use tokio::sync::oneshot;
use uuid::Uuid;

/// The topic of the catalog.
pub(crate) const CATALOG_TOPIC: &str = "__kappa_catalog";
/// The topic of committed offsets and group metadata.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// What the catalog's worker is known by.
pub(crate) const WORKER: &str = "catalog";

/// All topics, and the way to change them.
#[derive(Debug)]
pub(crate) struct Topics {
    registry: Arc<Registry>,
    layers: Arc<ArcSwap<BrokerLayers>>,
    producer_ids: Arc<Mutex<std::ops::Range<i64>>>,
    /// `None` once no more changes are taken.
    changes: Mutex<Option<SyncSender<Change>>>,
    env: PartitionEnv,
    data_dir: PathBuf,
    /// What the checkpoints on disk say; held while they are written, so that an older state never replaces a newer.
    checkpointed: Mutex<Vec<Checkpointed<Arc<str>>>>,
    /// Whether a change panicked.
    is_fenced: Arc<AtomicBool>,
    panics: Panics,
}

/// Carries out the changes of the catalog.
pub(crate) struct CatalogWorker {
    catalog: Catalog,
}

impl CatalogWorker {
    /// Carries out changes until no more are taken and none is left.
    pub(crate) fn run(self) {
        self.catalog.run();
    }
}

impl Topics {
    fn new(catalog: Catalog, changes: SyncSender<Change>) -> (Self, CatalogWorker) {
        let topics = Self {
            registry: catalog.registry.clone(),
            layers: catalog.layers.clone(),
            producer_ids: catalog.producer_ids.clone(),
            changes: Mutex::new(Some(changes)),
            env: catalog.env.clone(),
            data_dir: catalog.data_dir.clone(),
            checkpointed: Mutex::default(),
            is_fenced: Arc::default(),
            panics: Panics::default(),
        };
        (topics, CatalogWorker { catalog })
    }

    /// The same topics, with panics counted elsewhere.
    pub(crate) fn reporting_to(self, panics: Panics) -> Self {
        Self { panics, ..self }
    }

    /// Where panics are counted.
    pub(crate) fn panics(&self) -> &Panics {
        &self.panics
    }

    /// The topic of this name.
    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.registry.topic(name)
    }

    /// The topic of this id.
    pub(crate) fn by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.registry.by_id(id)
    }

    /// A partition of the topic of this name.
    pub(crate) fn partition(&self, name: &str, index: i32) -> Option<Arc<Partition>> {
        self.registry.partition(name, index)
    }

    /// Every topic, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        self.registry.all()
    }

    /// Number of topics.
    pub(crate) fn count(&self) -> usize {
        self.registry.count()
    }

    /// The broker's settings as they are now.
    pub(crate) fn layers(&self) -> Arc<BrokerLayers> {
        self.layers.load_full()
    }

    /// Where partitions keep their files, and what they share.
    pub(crate) fn env(&self) -> &PartitionEnv {
        &self.env
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &std::path::Path {
        &self.data_dir
    }

    /// Hands a change to the catalog's worker. It is in line when this returns; the future waits for what came of it.
    /// Dropping the future changes nothing.
    pub(crate) fn change<R, F>(
        &self,
        change: F,
    ) -> impl Future<Output = Result<R, TopicError>> + Send + use<R, F>
    where
        R: Send + 'static,
        F: FnOnce(&Catalog) -> R + Send + 'static,
    {
        self.change_of(0, change)
    }

    /// The same for a change that makes or removes so many partitions: if they are many, others may go first.
    pub(crate) fn change_of<R, F>(
        &self,
        partitions: usize,
        change: F,
    ) -> impl Future<Output = Result<R, TopicError>> + Send + use<R, F>
    where
        R: Send + 'static,
        F: FnOnce(&Catalog) -> R + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let contained = self.contained(change);
        let job = Box::new(move |catalog: &Catalog| {
            let _ = answer.send(contained(catalog));
        });
        let queued = self.enqueue(Change { job, is_long: partitions > STEP_PARTITIONS });
        async move {
            queued?;
            answered.await.unwrap_or(Err(TopicError::Stopping))
        }
    }

    /// A change that is not made once one has panicked: what that one left half done must not be built upon.
    fn contained<R, F>(&self, change: F) -> impl FnOnce(&Catalog) -> Result<R, TopicError> + use<R, F>
    where
        F: FnOnce(&Catalog) -> R,
    {
        let (is_fenced, panics) = (self.is_fenced.clone(), self.panics.clone());
        move |catalog| {
            if is_fenced.load(Ordering::Acquire) {
                return Err(TopicError::Fenced);
            }
            panics.contain(WORKER, || change(catalog)).ok_or_else(|| {
                is_fenced.store(true, Ordering::Release);
                TopicError::Fenced
            })
        }
    }

    fn enqueue(&self, change: Change) -> Result<(), TopicError> {
        let changes = self.changes.lock();
        let changes = changes.as_ref().ok_or(TopicError::Stopping)?;
        changes.try_send(change).map_err(|error| match error {
            TrySendError::Full(_) => TopicError::Busy,
            TrySendError::Disconnected(_) => TopicError::Stopping,
        })
    }

    /// The internal topic of this name, created with these partitions and settings if it does not exist.
    pub(crate) fn ensure_internal(
        &self,
        name: &'static str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> impl Future<Output = Result<Arc<Topic>, TopicError>> + Send + use<> {
        let existing = self.topic(name);
        let configs: Vec<(String, String)> =
            configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let created =
            existing.is_none().then(|| self.change(move |catalog| catalog.ensure(name, partitions, configs)));
        async move {
            match (existing, created) {
                (Some(topic), _) => Ok(topic),
                (None, Some(created)) => created.await?,
                (None, None) => unreachable!("what does not exist is created"),
            }
        }
    }

    /// Has `listener` told, on the catalog's worker, the names of topics whose deletion is durable and which nobody can
    /// reach any more, before the names are free. It may wait for the disk. Returns whether nothing is left of them;
    /// until then nobody gets the names, and it is told them again.
    pub(crate) fn on_deletion(&self, listener: impl Fn(&BTreeSet<Arc<str>>) -> bool + Send + Sync + 'static) {
        self.registry.on_deletion(Box::new(listener));
    }

    /// Something is left of topics of these names that are gone, see [`Topics::on_deletion`].
    pub(crate) fn owe(&self, names: impl IntoIterator<Item = Arc<str>>) {
        self.registry.owe(names);
    }

    /// The folded catalog as text. Waits for the changes that are in line.
    pub(crate) fn dump(&self) -> Result<String, TopicError> {
        let (answer, answered) = std::sync::mpsc::channel();
        let contained = self.contained(Catalog::dump);
        let job = Box::new(move |catalog: &Catalog| {
            let _ = answer.send(contained(catalog));
        });
        self.enqueue(Change { job, is_long: false })?;
        answered.recv().map_err(|_| TopicError::Stopping)??
    }

    /// A producer id at once, if one is reserved; else ask [`Catalog::producer_id`].
    pub(crate) fn reserved_producer_id(&self) -> Option<i64> {
        self.producer_ids.lock().next()
    }

    /// Takes no more changes: the worker ends after those that are in line.
    pub(crate) fn end_changes(&self) {
        *self.changes.lock() = None;
    }

    /// Closes every partition, and leaves the checkpoints and, if all closed well, the clean marker behind. One sync of
    /// the file system covers what closing wrote. The worker must have ended. Blocks on the disk.
    pub(crate) fn close(&self) -> Result<(), TopicError> {
        let topics = self.all();
        let partitions: Vec<_> = topics.iter().flat_map(|topic| (*topic.partitions()).clone()).collect();
        let unsynced: Vec<_> =
            partitions.iter().filter(|partition| partition.needs_sync()).cloned().collect();
        // What fails here is told again when each is closed.
        let _ = Partition::sync_all(&unsynced);
        let writes = partitions.iter().any(|partition| partition.needs_closing());
        let mut failed = None;
        for partition in partitions {
            if let Err(error) = partition.close() {
                let directory = partition.directory().display();
                tracing::error!(%directory, %error, "partition not closed");
                failed = Some(TopicError::storage(error));
            }
        }
        let (disk, data_dir) = (&*self.env.disk, self.data_dir.as_path());
        if writes {
            let synced = disk.sync_file_system(data_dir);
            if let Err(error) = synced.map_err(StorageError::on("sync the file system of", data_dir)) {
                failed.get_or_insert(TopicError::storage(error));
            }
        }
        self.write_checkpoints()?;
        match failed {
            Some(error) => Err(error),
            None if self.is_fenced.load(Ordering::Acquire) => Err(TopicError::Fenced),
            None => {
                self.env.flush.end().map_err(TopicError::storage)?;
                Checkpoints::mark_clean(disk, data_dir).map_err(TopicError::storage)
            }
        }
    }

    /// Closes every partition as it is, as if the process were killed here: whatever a lane that outlives the broker
    /// appends is refused from now on. The worker must have ended.
    pub(crate) fn abandon(&self) {
        for topic in self.all() {
            topic.partitions().iter().for_each(|partition| partition.abandon());
        }
    }

    /// Writes how far each partition is known to be whole, and where it starts, if that has changed. Blocks on the
    /// disk.
    pub(crate) fn write_checkpoints(&self) -> Result<(), TopicError> {
        #[cfg(test)]
        if crate::safeguard::Safeguard::CheckpointRewrite.is_taken_out() {
            return Ok(());
        }
        let mut written = self.checkpointed.lock();
        let mut logs = Vec::new();
        for topic in self.all() {
            for (partition, opened) in (0i32..).zip(topic.partitions().iter()) {
                let positions = opened.positions();
                logs.push(Checkpointed {
                    topic_id: topic.id,
                    topic: topic.name.clone(),
                    partition,
                    positions,
                });
            }
        }
        let (disk, data_dir) = (&*self.env.disk, self.data_dir.as_path());
        if *written != logs {
            Checkpoints::write(disk, data_dir, &logs).map_err(TopicError::storage)?;
            *written = logs;
        }
        if let Err(error) = keep_reserve(disk, data_dir) {
            tracing::warn!(%error, "no reserve for a full disk");
        }
        Ok(())
    }
}

#[cfg(test)]
impl CatalogWorker {
    /// Carries out the next change, or else removes a directory that is owed; whether there was either.
    pub(crate) fn step(&self) -> bool {
        self.catalog.step()
    }

    /// The folded state as it is kept, and as it is replayed from the log.
    pub(crate) fn dumps(&self) -> (String, String) {
        let fresh = crate::partition::Fold::new(self.catalog.log.clone(), state::CatalogState::default());
        let kept = self.catalog.dump().unwrap_or_else(|error| error.to_string());
        (kept, fresh.with(state::CatalogState::dump).unwrap_or_else(|error| error.to_string()))
    }
}

#[cfg(test)]
mod tests;
