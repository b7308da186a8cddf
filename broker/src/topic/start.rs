//! Opening the topics of a data directory: replay the catalog, match directories with it, repair what a crash left.
//!
//! Directories that no topic accounts for are set aside, never removed, unless the catalog says that their topic was
//! deleted. Recorded topics whose directories are missing get empty ones: a crash came between record and directory.

use super::catalog::Catalog;
use super::partition_config::partition_config;
use super::record::TopicEntry;
use super::registry::{Partitions, Registry, Topic};
use super::state::{CatalogError, CatalogState};
use super::{CATALOG_TOPIC, CatalogWorker, Topics};
use crate::config::{BrokerLayers, Overrides, Settings};
use crate::log::{Checkpoints, StorageError, directory_topic_id};
use crate::partition::{Fold, FoldError, Partition, PartitionEnv};
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Id of the catalog's topic in every data directory.
const CATALOG_ID: Uuid = Uuid::from_u128(0x6b61_7070_6100_4000_8000_0000_0000_0001);
/// Where directories go that no topic accounts for.
pub(crate) const SET_ASIDE: &str = "set-aside";

/// Why the topics of a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("data directory {}: {source}", path.display())]
    Disk {
        /// What was touched.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// A partition cannot be opened.
    #[error("partition {directory}: {source}")]
    Partition {
        /// Its directory.
        directory: String,
        /// Why.
        source: StorageError,
    },
    /// The catalog's topic cannot be read.
    #[error("the catalog {CATALOG_TOPIC}-0 cannot be read: {0}")]
    Catalog(Box<dyn std::error::Error + Send + Sync>),
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> Self {
        Self::Disk { path: error.path.clone(), source: io::Error::other(error) }
    }
}

impl From<FoldError<CatalogError>> for OpenError {
    fn from(error: FoldError<CatalogError>) -> Self {
        Self::Catalog(Box::new(error))
    }
}

impl Topics {
    /// Opens every topic of `data_dir`. Nothing is changed until the worker runs. Blocks on the disk.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is served then.
    pub(crate) fn open(
        env: PartitionEnv,
        data_dir: &Path,
        fixed: &Overrides,
        settings: &Settings,
    ) -> Result<(Self, CatalogWorker), OpenError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| OpenError::Disk { path, source }
        };
        let checkpoints = Checkpoints::open(&*env.disk, data_dir)?;
        let listed = env.disk.list(data_dir).map_err(at(data_dir))?;
        let directories = listed.into_iter().filter(|entry| entry.is_dir && entry.name != SET_ASIDE);
        let opening = Opening {
            env: &env,
            data_dir,
            checkpoints: &checkpoints,
            layers: BrokerLayers { fixed: fixed.clone(), ..BrokerLayers::default() },
            found: directories.map(|entry| entry.name).collect(),
        };
        let (opening, log) = opening.catalog_log()?;
        let fold = Fold::new(log.clone(), CatalogState::default());
        let state = fold.with(CatalogState::clone)?;
        let layers = state.layers(fixed, settings.node_id);
        let registry = Arc::new(Registry::default());
        let mut opening = Opening { layers: layers.clone(), ..opening };
        for (id, entry) in state.topics() {
            registry.insert(opening.topic(id, entry, &state)?);
        }
        opening.leftovers(&state)?;
        let catalog_topic =
            Topic::new(CATALOG_ID, CATALOG_TOPIC.into(), vec![log.clone()], catalog_overrides());
        registry.insert(catalog_topic);
        let catalog = Catalog {
            registry,
            layers: Arc::new(ArcSwap::from_pointee(layers)),
            producer_ids: Arc::default(),
            settings: settings.clone(),
            env: env.clone(),
            data_dir: data_dir.to_path_buf(),
            log,
            fold,
        };
        Ok(Topics::new(catalog))
    }
}

/// Every record stays until compaction exists.
fn catalog_overrides() -> Overrides {
    Overrides::from([("cleanup.policy".into(), "compact".into())])
}

struct Opening<'a> {
    env: &'a PartitionEnv,
    data_dir: &'a Path,
    checkpoints: &'a Checkpoints,
    layers: BrokerLayers,
    found: BTreeSet<String>,
}

impl Opening<'_> {
    fn catalog_log(mut self) -> Result<(Self, Arc<Partition>), OpenError> {
        let entry = TopicEntry { name: CATALOG_TOPIC.into(), partitions: 1, configs: catalog_overrides() };
        let log = self.partition(CATALOG_ID, &entry, 0, &CatalogState::default())?;
        Ok((self, log))
    }

    fn topic(&mut self, id: Uuid, entry: &TopicEntry, state: &CatalogState) -> Result<Arc<Topic>, OpenError> {
        let partitions = (0..entry.partitions)
            .map(|index| self.partition(id, entry, index, state))
            .collect::<Result<Partitions, OpenError>>()?;
        Ok(Topic::new(id, entry.name.as_str().into(), partitions, entry.configs.clone()))
    }

    fn partition(
        &mut self,
        id: Uuid,
        entry: &TopicEntry,
        index: i32,
        state: &CatalogState,
    ) -> Result<Arc<Partition>, OpenError> {
        let directory = format!("{}-{index}", entry.name);
        let path = self.data_dir.join(&directory);
        let config = partition_config(&entry.name, &entry.configs, &self.layers);
        if self.found.remove(&directory) {
            if directory_topic_id(&self.env.disk, &path) == Some(id) {
                let opening = self.checkpoints.of(&entry.name, index);
                let (partition, report) = Partition::open(self.env, path, Some(id), config, opening)
                    .map_err(|source| OpenError::Partition { directory: directory.clone(), source })?;
                if !(report.damage.is_empty() && report.set_aside.is_empty()) {
                    tracing::warn!(%directory, ?report, "recovered after an unclean stop");
                }
                return Ok(partition);
            }
            self.dispose(&directory, state)?;
        }
        if entry.name != CATALOG_TOPIC {
            tracing::warn!(%directory, "the directory of a recorded partition is missing: it starts empty");
        }
        Partition::open(self.env, path, Some(id), config, Default::default())
            .map(|(partition, _)| partition)
            .map_err(|source| OpenError::Partition { directory, source })
    }

    fn leftovers(&mut self, state: &CatalogState) -> Result<(), OpenError> {
        for directory in std::mem::take(&mut self.found) {
            self.dispose(&directory, state)?;
        }
        Ok(())
    }

    /// Removes what is left of a deleted topic; sets everything else aside.
    fn dispose(&self, directory: &str, state: &CatalogState) -> Result<(), OpenError> {
        let (disk, path) = (&self.env.disk, self.data_dir.join(directory));
        let deleted = directory_topic_id(disk, &path).is_some_and(|id| state.was_deleted(id));
        let result = if deleted {
            tracing::info!(directory, "removing what is left of a deleted topic");
            disk.remove_dir_all(&path)
        } else {
            self.set_aside(directory, &path)
        };
        result.map_err(|source| OpenError::Disk { path, source })
    }

    fn set_aside(&self, directory: &str, path: &Path) -> io::Result<()> {
        let disk = &*self.env.disk;
        let aside = self.data_dir.join(SET_ASIDE);
        disk.create_dir(&aside)?;
        let target = aside.join(format!("{directory}.{}", self.env.clock.now_ms()));
        tracing::warn!(directory, target = %target.display(), "no topic accounts for this directory: set aside");
        disk.rename(path, &target)?;
        disk.sync_dir(&aside)?;
        disk.sync_dir(self.data_dir)
    }
}
