//! Changes of the catalog: check, record durably, act, show.
//!
//! Owns the catalog topic, which one thread alone writes to; between the steps of a change of many partitions, others
//! may be carried out. Invariants: directories exist before
//! their record is written, a record is durable before its topic is shown, and a deletion's record is durable before
//! any byte goes. A change that fails before its record is durable has changed nothing: what could not be removed again
//! belongs to an id that the catalog never knew.

use super::error::TopicError;
use super::line::Line;
use super::name::TopicName;
use super::partition_config::partition_config;
use super::record::{BrokerEntry, CatalogRecord, ProducerIdsEntry, TopicEntry};
use super::registry::{Partitions, Registry, Topic, is_internal};
use super::start::{House, OpenError};
use super::state::CatalogState;
use crate::config::{BrokerLayers, Overrides, Settings};
use crate::log::NewDirectories;
use crate::partition::{Fold, Partition, PartitionEnv, RewritePolicy};
use arc_swap::ArcSwap;
use kappa_protocol::record::{BatchBuilder, BatchOptions};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Producer ids reserved by one record.
const PRODUCER_ID_BLOCK: i64 = 1000;

/// A topic to be created.
#[derive(Clone, Debug)]
pub(crate) struct NewTopic {
    /// Its name, not yet checked.
    pub(crate) name: String,
    /// Its partitions; `None` is the broker's default.
    pub(crate) partitions: Option<i32>,
    /// Its own settings, not yet checked.
    pub(crate) configs: Vec<(String, String)>,
}

/// Whose settings are changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConfigOwner {
    /// A topic, by name.
    Topic(String),
    /// A broker by its number, or all (`None`).
    Broker(Option<i32>),
}

/// What several changes of a request came to, each by itself.
pub(crate) type Outcomes<T> = Vec<Result<T, TopicError>>;

/// What the catalog's worker works on.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(super) line: Line,
    pub(super) registry: Arc<Registry>,
    pub(super) layers: Arc<ArcSwap<BrokerLayers>>,
    pub(super) producer_ids: Arc<Mutex<std::ops::Range<i64>>>,
    pub(super) settings: Settings,
    pub(super) env: PartitionEnv,
    pub(super) data_dir: PathBuf,
    pub(super) log: Arc<Partition>,
    pub(super) fold: Fold<CatalogState>,
    pub(super) policy: Mutex<RewritePolicy>,
}

impl Catalog {
    /// Reads the folded state.
    pub(crate) fn state<R>(&self, read: impl FnOnce(&CatalogState) -> R) -> Result<R, TopicError> {
        self.fold.with(read).map_err(TopicError::storage)
    }

    /// The folded state as text, the same for the same state.
    pub(crate) fn dump(&self) -> Result<String, TopicError> {
        self.state(CatalogState::dump)
    }

    /// Appends records as one batch, atomically, and waits until they are on disk.
    pub(super) fn write(&self, records: &[CatalogRecord]) -> Result<(), TopicError> {
        if records.is_empty() {
            return Ok(());
        }
        let now_ms = self.env.clock.now_ms();
        let mut batch = BatchBuilder::new(BatchOptions::default());
        for record in records {
            let (key, value) = (record.key(), record.value());
            batch.push(now_ms, Some(key.as_bytes()), value.as_deref(), std::iter::empty());
        }
        let appended = self.log.append(batch.finish(0)).map_err(TopicError::storage)?;
        self.log.sync_through(appended.mark).map_err(TopicError::storage)
    }

    /// Creates topics. With `validate_only` it only says whether it could. Directories are made first and removed again
    /// if the record cannot be written: what is left then belongs to an id that the catalog never knew.
    pub(crate) fn create_topics(&self, topics: &[NewTopic], validate_only: bool) -> Outcomes<Arc<Topic>> {
        let checked = match self.state(|state| self.check_new(state, topics)) {
            Ok(checked) => checked,
            Err(error) => return topics.iter().map(|_| Err(error.clone())).collect(),
        };
        let count = |entry: &TopicEntry| if validate_only { 0 } else { i64::from(entry.partitions) };
        let new = checked.iter().flatten().map(|(_, entry)| (entry.name.as_str(), count(entry)));
        let _hold = self.line.hold(new);
        let layers = self.layers.load_full();
        let made: Outcomes<Arc<Topic>> = checked
            .into_iter()
            .map(|checked| {
                let (id, entry) = checked?;
                let count = if validate_only { 0 } else { entry.partitions };
                let partitions = self.make(id, &entry, 0..count)?;
                Ok(Topic::new(id, entry.name.into(), partitions, entry.configs))
            })
            .collect();
        if validate_only {
            return made;
        }
        let record = |topic: &Arc<Topic>| CatalogRecord::Topic(topic.id, topic.entry());
        let records: Vec<CatalogRecord> = made.iter().flatten().map(record).collect();
        if let Err(error) = self.write(&records) {
            made.iter().flatten().for_each(|topic| self.unmake(&topic.partitions()));
            return made.into_iter().map(|topic| topic.and(Err(error.clone()))).collect();
        }
        for topic in made.iter().flatten() {
            self.registry.insert(topic.clone());
            if !Arc::ptr_eq(&layers, &self.layers.load()) {
                self.reconfigure(topic);
            }
            tracing::info!(topic = %topic.name, partitions = topic.partitions().len(), "topic created");
        }
        made
    }

    fn check_new(&self, state: &CatalogState, topics: &[NewTopic]) -> Outcomes<(Uuid, TopicEntry)> {
        let mut added: BTreeMap<String, Arc<str>> = BTreeMap::new();
        let mut partitions = state.partitions() + self.line.partitions();
        topics
            .iter()
            .map(|topic| {
                let name = TopicName::new(&topic.name)?;
                let key = TopicName::collision_key(&topic.name);
                let other = state.name_like(&topic.name).or(added.get(&key).map(|name| &**name));
                match other.map(str::to_owned).or_else(|| self.line.taken_like(&key)) {
                    Some(other) if other == topic.name => return Err(TopicError::Exists(name.shared())),
                    Some(other) => {
                        return Err(TopicError::Collision {
                            name: topic.name.clone(),
                            existing: other.into(),
                        });
                    }
                    None => {}
                }
                if !self.registry.is_free(&topic.name) {
                    return Err(TopicError::Owed(name.shared()));
                }
                let count = topic.partitions.unwrap_or(self.settings.partitions_default);
                self.check_partitions(count, count, partitions)?;
                let mut configs = Overrides::new();
                for (name, value) in &topic.configs {
                    crate::config::set_topic(&mut configs, name, value)?;
                }
                partitions += i64::from(count);
                added.insert(key, name.shared());
                let entry = TopicEntry { name: topic.name.clone(), partitions: count, configs };
                Ok((self.env.clock.fresh_id(), entry))
            })
            .collect()
    }

    fn check_partitions(&self, count: i32, more: i32, existing: i64) -> Result<(), TopicError> {
        let (max, broker_max) = (self.settings.partitions_max_per_topic, self.settings.partitions_max);
        if !(1..=max).contains(&count) {
            return Err(TopicError::Partitions { partitions: count, max });
        }
        if existing + i64::from(more) > i64::from(broker_max) {
            let existing = i32::try_from(existing).unwrap_or(i32::MAX);
            return Err(TopicError::BrokerFull { asked: more, existing, max: broker_max });
        }
        Ok(())
    }

    /// Makes partitions of a topic, all or none. Nothing is synced: what a power cut takes before the first sync of a
    /// partition, the next start makes again.
    fn make(&self, id: Uuid, entry: &TopicEntry, indexes: Range<i32>) -> Result<Partitions, TopicError> {
        let config = partition_config(&entry.name, &entry.configs, &self.layers.load());
        let siblings = Arc::new(NewDirectories::default());
        let mut made = Partitions::with_capacity(indexes.len());
        for index in indexes {
            let directory = format!("{}-{index}", entry.name);
            let path = self.data_dir.join(&directory);
            let create = || Partition::create(&self.env, path.clone(), id, config.clone(), siblings.clone());
            let mut created = create().map_err(OpenError::from);
            if created.as_ref().is_err_and(OpenError::is_occupied) {
                created = self.clear(&directory).and_then(|()| create().map_err(OpenError::from));
            }
            match created {
                Ok(partition) => {
                    made.push(partition);
                    self.let_others_go();
                }
                Err(error) => {
                    self.unmake(&made);
                    return Err(TopicError::storage(error));
                }
            }
        }
        Ok(made)
    }

    /// Frees the name of a directory from what an earlier deletion or creation could not remove.
    fn clear(&self, directory: &str) -> Result<(), OpenError> {
        let state = self.fold.with(CatalogState::clone)?;
        let house = House::new(&self.env, &self.data_dir);
        house.clear(&state, directory)?;
        self.line.owe(house.into_doomed());
        Ok(())
    }

    /// Removes partitions that nobody has seen.
    fn unmake(&self, partitions: &Partitions) {
        for partition in partitions {
            self.let_others_go();
            partition.abandon();
            if let Err(error) = self.env.disk.remove_dir_all(partition.directory()) {
                let directory = partition.directory().display();
                tracing::warn!(%directory, %error, "a directory of no topic stays until its name is used again");
            }
        }
    }

    /// The internal topic of this name, created if it does not exist.
    pub(super) fn ensure(
        &self,
        name: &str,
        partitions: i32,
        configs: Vec<(String, String)>,
    ) -> Result<Arc<Topic>, TopicError> {
        if let Some(topic) = self.registry.topic(name) {
            return Ok(topic);
        }
        let topic = NewTopic { name: name.into(), partitions: Some(partitions), configs };
        let created = self.create_topics(&[topic], false).into_iter().next();
        created.unwrap_or(Err(TopicError::Stopping))
    }

    /// Deletes topics: their records first, then the names of their directories. What is in those goes later.
    pub(crate) fn delete_topics(&self, ids: &[Uuid]) -> Outcomes<Arc<Topic>> {
        let found: Outcomes<Arc<Topic>> = ids.iter().map(|id| self.deletable(*id)).collect();
        let unique: BTreeSet<Uuid> = found.iter().flatten().map(|topic| topic.id).collect();
        let records: Vec<CatalogRecord> = unique.iter().map(|id| CatalogRecord::TopicDeleted(*id)).collect();
        if let Err(error) = self.write(&records) {
            return found.into_iter().map(|topic| topic.and(Err(error.clone()))).collect();
        }
        let removed: Vec<Arc<Topic>> = unique.iter().filter_map(|id| self.registry.remove(*id)).collect();
        let _hold = self.line.hold(removed.iter().map(|topic| (&*topic.name, 0)));
        self.registry.deleted(&removed);
        let mut retired = Vec::new();
        for topic in removed {
            for (index, partition) in (0i32..).zip(topic.partitions().iter()) {
                match partition.retire(index) {
                    Ok(path) => retired.push(path),
                    Err(error) => remains(partition.directory(), error),
                }
                self.let_others_go();
            }
            tracing::info!(topic = %topic.name, "topic deleted");
        }
        self.owe(retired);
        found
    }

    /// Has retired directories removed once their names are durable. Those whose names are not belong to an id that the
    /// catalog knows to be deleted: they are removed when their name is wanted or at the next start.
    fn owe(&self, retired: Vec<PathBuf>) {
        if retired.is_empty() {
            return;
        }
        match self.env.disk.sync_dir(&self.data_dir) {
            Ok(()) => self.line.owe(retired),
            Err(error) => remains(&self.data_dir, error),
        }
    }

    fn deletable(&self, id: Uuid) -> Result<Arc<Topic>, TopicError> {
        let topic = self.registry.by_id(id).ok_or(TopicError::UnknownId(id))?;
        if topic.is_internal() {
            return Err(TopicError::Internal(topic.name.to_string()));
        }
        if !self.settings.delete_topics {
            return Err(TopicError::DeletionDisabled);
        }
        Ok(topic)
    }

    /// Raises a topic's number of partitions to `count`.
    pub(crate) fn create_partitions(
        &self,
        name: &str,
        count: i32,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        let topic = self.registry.topic(name).ok_or_else(|| TopicError::Unknown(name.into()))?;
        if topic.is_internal() {
            return Err(TopicError::Internal(name.into()));
        }
        let mut partitions = (*topic.partitions()).clone();
        let existing = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        if count <= existing {
            return Err(TopicError::NotAnIncrease { name: topic.name.clone(), existing, asked: count });
        }
        let all = self.state(CatalogState::partitions)? + self.line.partitions();
        self.check_partitions(count, count - existing, all)?;
        if validate_only {
            return Ok(());
        }
        let _hold = self.line.hold(std::iter::once((name, i64::from(count - existing))));
        let configs = (*topic.overrides()).clone();
        let mut entry = TopicEntry { name: name.into(), partitions: count, configs };
        let made = self.make(topic.id, &entry, existing..count)?;
        // The changes that went first may have been to this topic.
        if self.registry.by_id(topic.id).is_none() {
            self.unmake(&made);
            return Err(TopicError::Unknown(name.into()));
        }
        entry.configs = (*topic.overrides()).clone();
        if let Err(error) = self.write(&[CatalogRecord::Topic(topic.id, entry)]) {
            self.unmake(&made);
            return Err(error);
        }
        partitions.extend(made);
        topic.set_partitions(partitions);
        self.reconfigure(&topic);
        tracing::info!(topic = name, partitions = count, "partitions added");
        Ok(())
    }

    /// Replaces the settings of topics and brokers by what `change` makes of them; all of one owner or none.
    pub(crate) fn alter_configs(
        &self,
        changes: Vec<(ConfigOwner, ConfigChange)>,
        validate_only: bool,
    ) -> Outcomes<()> {
        changes
            .into_iter()
            .map(|(owner, change)| match owner {
                ConfigOwner::Topic(name) => self.alter_topic(&name, &change, validate_only),
                ConfigOwner::Broker(node) => self.alter_broker(node, &change, validate_only),
            })
            .collect()
    }

    fn alter_topic(&self, name: &str, change: &ConfigChange, validate_only: bool) -> Result<(), TopicError> {
        let topic = self.registry.topic(name).ok_or_else(|| TopicError::Unknown(name.into()))?;
        if is_internal(name) {
            return Err(TopicError::Internal(name.into()));
        }
        let configs = change(&topic.overrides(), &self.layers.load())?;
        if validate_only || configs == *topic.overrides() {
            return Ok(());
        }
        let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
        let entry = TopicEntry { name: name.into(), partitions, configs: configs.clone() };
        self.write(&[CatalogRecord::Topic(topic.id, entry)])?;
        topic.set_overrides(configs);
        self.reconfigure(&topic);
        Ok(())
    }

    fn alter_broker(
        &self,
        node: Option<i32>,
        change: &ConfigChange,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        let before = self.state(|state| state.broker_configs(node))?;
        let configs = change(&before, &self.layers.load())?;
        if validate_only || configs == before {
            return Ok(());
        }
        self.write(&[CatalogRecord::Broker(node, BrokerEntry { configs })])?;
        let fixed = self.layers.load().fixed.clone();
        let layers = self.state(|state| state.layers(&fixed, self.settings.node_id))?;
        self.layers.store(Arc::new(layers));
        self.registry.all().iter().for_each(|topic| self.reconfigure(topic));
        Ok(())
    }

    fn reconfigure(&self, topic: &Topic) {
        let config = partition_config(&topic.name, &topic.overrides(), &self.layers.load());
        for partition in topic.partitions().iter() {
            partition.reconfigure(config.clone());
        }
    }

    /// A producer id that nobody was given before.
    pub(crate) fn producer_id(&self) -> Result<i64, TopicError> {
        if let Some(id) = self.producer_ids.lock().next() {
            return Ok(id);
        }
        let start = self.state(CatalogState::producer_id_next)?;
        let next = start + PRODUCER_ID_BLOCK;
        self.write(&[CatalogRecord::ProducerIds(ProducerIdsEntry { next })])?;
        let mut reserved = self.producer_ids.lock();
        *reserved = start + 1..next;
        Ok(start)
    }
}

/// Makes new settings of an owner's present ones, given the broker's layers for defaults.
pub(crate) type ConfigChange =
    Box<dyn Fn(&Overrides, &BrokerLayers) -> Result<Overrides, TopicError> + Send + Sync>;

fn remains(path: &Path, error: impl std::error::Error) {
    tracing::warn!(directory = %path.display(), %error, "what is left of a deleted topic stays for now");
}
