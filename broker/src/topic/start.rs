//! Opening the topics of a data directory: look at what is there, plan, and only then change anything.
//!
//! What becomes of each directory is decided by [`super::inventory`]; this file looks, and carries the plan out. If any
//! part of it is a refusal, nothing is moved, made or removed. Directories are opened by several threads.

use super::catalog::Catalog;
use super::inventory::{self, Action, Directories, Found, Place, Refusal};
use super::line::{Line, QUEUE_MAX};
use super::partition_config::partition_config;
use super::registry::{Partitions, Registry, Topic};
use super::state::{CatalogError, CatalogState};
use super::{CATALOG_TOPIC, CatalogWorker, Topics};
use crate::config::{BrokerLayers, Overrides, Settings};
use crate::disk::Disk;
use crate::journal::PartitionKey;
use crate::log::{
    Checkpoints, Damage, EpochFloor, NewDirectories, Opening, RecoveryEnd, RecoveryReport, SetAside,
    StorageError, directory_owner, index_of, is_retired, keep_reserve, retire,
};
use crate::partition::{Fold, FoldError, Partition, PartitionConfig, PartitionEnv, SYNC_TOGETHER_MIN};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use uuid::Uuid;

/// Id of the catalog's topic in every data directory.
pub(super) const CATALOG_ID: Uuid = Uuid::from_u128(0x6b61_7070_6100_4000_8000_0000_0000_0001);
/// Where directories go that no topic accounts for.
pub(super) const SET_ASIDE: &str = "set-aside";
/// Longest part of a directory's name that it keeps there, in bytes: a number is added, and 255 are the most.
const SET_ASIDE_NAME_BYTES: usize = 200;
/// Partitions that are worth a thread more to open them.
const PARTITIONS_PER_THREAD: usize = 64;
/// Most threads that open partitions.
const THREADS_MAX: usize = 8;
/// Refusals that are told one by one.
const REFUSALS_TOLD: usize = 5;

/// The cure of last resort, in words.
pub(crate) const REPAIR: &str =
    "`kappa log repair DATA_DIR` says what could be kept, and with --to makes a copy that starts";

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
    /// A partition that must be whole cannot be opened: what its records say would be forgotten.
    #[error("partition {directory}: {source}: {}; {REPAIR}", source.source)]
    Folded {
        /// Its directory.
        directory: String,
        /// Why.
        source: StorageError,
    },
    /// The catalog's topic cannot be read.
    #[error("the catalog {CATALOG_TOPIC}-0 cannot be read: {0}; {REPAIR}")]
    Catalog(Box<dyn std::error::Error + Send + Sync>),
    /// What was found may not be served as it is; nothing was moved, made or removed.
    #[error("nothing was changed: {}; {REPAIR}", told(.0))]
    Refused(Vec<Refusal>),
}

impl OpenError {
    /// Whether something is where a directory should be made.
    pub(super) fn is_occupied(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }
}

fn told(refusals: &[Refusal]) -> String {
    let mut text: Vec<String> = refusals.iter().take(REFUSALS_TOLD).map(Refusal::to_string).collect();
    if let Some(more) = refusals.len().checked_sub(REFUSALS_TOLD).filter(|more| *more > 0) {
        text.push(format!("and {more} more"));
    }
    text.join("; ")
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> Self {
        let source = io::Error::new(error.source.kind(), format!("{error}: {}", error.source));
        Self::Disk { path: error.path.clone(), source }
    }
}

impl From<FoldError<CatalogError>> for OpenError {
    fn from(error: FoldError<CatalogError>) -> Self {
        Self::Catalog(Box::new(error))
    }
}

impl Topics {
    /// Opens every topic of `data_dir`. Nothing is changed until the worker runs. Blocks on the disk. `is_layout_1` says
    /// that the directory was last used by a version whose checkpoints were Kafka's.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is served then.
    pub(crate) fn open(
        env: PartitionEnv,
        data_dir: &Path,
        is_layout_1: bool,
        fixed: &Overrides,
        settings: &Settings,
    ) -> Result<(Self, CatalogWorker), OpenError> {
        let disk = &*env.disk;
        let checkpoints = Checkpoints::read(disk, data_dir, is_layout_1)?;
        let mut house = House::new(&env, data_dir);
        let mut found = house.look()?;
        // Where there is no directory yet, nobody was shown anything.
        let nothing_is_gone = checkpoints.clean() || found.is_empty();
        let mut floor = EpochFloor::read(disk, data_dir, nothing_is_gone)?;
        house.epoch_floor = floor.epoch;

        let catalog_directory = format!("{CATALOG_TOPIC}-0");
        if !found.get(&catalog_directory).is_some_and(|found| matches!(found.owner, Ok(Some(CATALOG_ID)))) {
            house.measure(&mut found, |_, _| true)?;
        }
        let actions = agreed(inventory::plan_catalog(&found, &checkpoints))?;
        let layers = BrokerLayers { fixed: fixed.clone(), ..BrokerLayers::default() };
        let config = partition_config(CATALOG_TOPIC, &catalog_overrides(), &layers);
        let opened = house.carry_out(actions, |_| config.clone())?;
        let log = opened.into_iter().next().expect("the catalog is opened or made").1;
        // Without this, a torn record could not be told from a catalog that lost its identity.
        log.make_root_durable()?;

        let fold = Fold::new(log.clone(), CatalogState::default());
        let state = fold.with(CatalogState::clone)?;
        let expected: HashMap<String, Uuid> = state
            .topics()
            .flat_map(|(id, entry)| {
                (0..entry.partitions).map(move |index| (format!("{}-{index}", entry.name), id))
            })
            .collect();
        house.measure(&mut found, |name, owner| owner.is_none() || expected.get(name).copied() != owner)?;
        let actions = agreed(inventory::plan(&state, &found, &checkpoints))?;
        floor.make_durable(disk, data_dir)?;
        checkpoints.take_marker(disk, data_dir)?;

        let layers = state.layers(fixed, settings.node_id);
        let configs: HashMap<Uuid, PartitionConfig> = state
            .topics()
            .map(|(id, entry)| (id, partition_config(&entry.name, &entry.configs, &layers)))
            .collect();
        let config = |id| configs.get(&id).cloned().unwrap_or_default();
        let mut partitions: HashMap<Uuid, Partitions> = HashMap::new();
        for (place, partition) in house.carry_out(actions, config)? {
            // They come by topic and index.
            partitions.entry(place.topic_id).or_default().push(partition);
        }
        let registry = Arc::new(Registry::default());
        for (id, entry) in state.topics() {
            let partitions = partitions.remove(&id).unwrap_or_default();
            registry.insert(Topic::new(id, entry.name.as_str().into(), partitions, entry.configs.clone()));
        }
        let catalog_topic =
            Topic::new(CATALOG_ID, CATALOG_TOPIC.into(), vec![log.clone()], catalog_overrides());
        registry.insert(catalog_topic);
        if let Err(error) = keep_reserve(disk, data_dir) {
            tracing::warn!(%error, "no reserve for a full disk");
        }
        let (changes, queue) = sync_channel(QUEUE_MAX);
        let catalog = Catalog {
            line: Line::new(queue, house.into_doomed()),
            registry,
            layers: Arc::new(ArcSwap::from_pointee(layers)),
            producer_ids: Arc::default(),
            settings: settings.clone(),
            env: env.clone(),
            data_dir: data_dir.to_path_buf(),
            log,
            fold,
            policy: Mutex::default(),
        };
        Ok(Topics::new(catalog, changes))
    }
}

/// Retention deletes none of its records.
fn catalog_overrides() -> Overrides {
    Overrides::from([("cleanup.policy".into(), "compact".into())])
}

/// Says what a log that was opened lacks, and what was taken out of it.
fn tell(directory: &str, report: &RecoveryReport) {
    for Damage { segment, position, bytes, offset } in &report.damage {
        tracing::error!(
            %directory, segment, position, bytes,
            "records from offset {offset} on had been synced and are missing or damaged: they are passed over; {REPAIR}"
        );
    }
    for SetAside { path, bytes, from_offset } in &report.set_aside {
        let file = path.display();
        tracing::warn!(%directory, %file, bytes, "what came from offset {from_offset} on is no whole batch and set aside");
    }
}

/// The plan, if no part of it is a refusal.
fn agreed(actions: Vec<Action>) -> Result<Vec<Action>, OpenError> {
    let refusals: Vec<Refusal> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Refuse(refusal) => Some(refusal.clone()),
            _ => None,
        })
        .collect();
    if refusals.is_empty() { Ok(actions) } else { Err(OpenError::Refused(refusals)) }
}

/// A data directory, looked at and put in order.
pub(super) struct House<'a> {
    env: &'a PartitionEnv,
    data_dir: &'a Path,
    /// The leader epoch that every partition that is opened or made here has at least.
    epoch_floor: i32,
    /// Directories that are durably nobody's and are to be removed.
    doomed: Mutex<Vec<PathBuf>>,
}

/// What a place is to be opened or made with.
enum Job {
    Open(Place, Opening),
    Create(Place),
}

impl<'a> House<'a> {
    pub(super) fn new(env: &'a PartitionEnv, data_dir: &'a Path) -> Self {
        Self { env, data_dir, epoch_floor: 0, doomed: Mutex::default() }
    }

    /// The directories that are left to remove.
    pub(super) fn into_doomed(self) -> Vec<PathBuf> {
        self.doomed.into_inner()
    }

    /// Every directory that may be a partition's, and whose it is.
    pub(super) fn look(&self) -> Result<Directories, StorageError> {
        let listed = self.env.disk.list(self.data_dir).map_err(StorageError::on("list", self.data_dir))?;
        let names = listed.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name);
        let names: Vec<String> = names.filter(|name| name != SET_ASIDE && name != "lost+found").collect();
        let found = in_parallel(&names, |name| Ok(self.look_at(name)))?;
        Ok(names.into_iter().zip(found).collect())
    }

    fn look_at(&self, name: &str) -> Found {
        let owner = match is_retired(name) {
            true => Ok(None),
            false => directory_owner(&*self.env.disk, &self.data_dir.join(name)),
        };
        let index = owner.as_ref().ok().and_then(|owner| owner.as_ref()?.index);
        Found { owner: owner.map(|owner| Some(owner?.topic_id)), index, is_blank: false }
    }

    /// Finds out which of the directories that `matters` says are blank.
    fn measure(
        &self,
        found: &mut Directories,
        matters: impl Fn(&str, Option<Uuid>) -> bool,
    ) -> Result<(), StorageError> {
        for (name, found) in found {
            if let Ok(owner) = found.owner
                && !is_retired(name)
                && matters(name, owner)
            {
                found.is_blank = is_blank(&*self.env.disk, &self.data_dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Frees the directory of a partition that is about to be made, if what is there is no topic's any more.
    ///
    /// # Errors
    /// [`OpenError`]; the directory is then as it was.
    pub(super) fn clear(&self, state: &CatalogState, directory: &str) -> Result<(), OpenError> {
        let mut found = Directories::from([(directory.to_owned(), self.look_at(directory))]);
        self.measure(&mut found, |_, _| true)?;
        let actions = found.iter().map(|(name, found)| inventory::unclaimed(state, name, found)).collect();
        self.carry_out(agreed(actions)?, |_| PartitionConfig::default()).map(|_| ())
    }

    /// Carries out a plan without refusals. Returns what was opened and made, in the plan's order.
    fn carry_out(
        &self,
        actions: Vec<Action>,
        config: impl Fn(Uuid) -> PartitionConfig + Sync,
    ) -> Result<Vec<(Place, Arc<Partition>)>, OpenError> {
        let disk = &*self.env.disk;
        let (mut jobs, mut blank, mut doomed, mut moved) = (Vec::new(), Vec::new(), Vec::new(), false);
        for action in actions {
            match action {
                Action::Open(place, opening) => jobs.push(Job::Open(place, opening)),
                Action::Create(place) => jobs.push(Job::Create(place)),
                Action::FinishDeletion(directory, owner) => {
                    let path = self.data_dir.join(&directory);
                    tracing::info!(%directory, "removing what is left of a topic");
                    match owner {
                        Some(owner) => doomed.push(retire(disk, &path, owner, index_of(&path).unwrap_or(0))?),
                        None if is_retired(&directory) => doomed.push(path),
                        // It is in the way of a partition, and there is next to nothing in it.
                        None => blank.push(path),
                    }
                    moved = true;
                }
                Action::SetAside(directory) => {
                    self.set_aside(&directory)?;
                    moved = true;
                }
                Action::Refuse(refusal) => return Err(OpenError::Refused(vec![refusal])),
            }
        }
        if moved {
            disk.sync_dir(self.data_dir).map_err(StorageError::on("sync the directory", self.data_dir))?;
        }
        for path in blank {
            if let Err(error) = disk.remove_dir_all(&path) {
                tracing::warn!(directory = %path.display(), %error, "a directory of no topic stays until the next start");
            }
        }
        self.doomed.lock().extend(doomed);
        if jobs.iter().any(|job| matches!(job, Job::Open(..))) {
            // Partitions that were made and never synced have names that are not durable yet.
            disk.sync_dir(self.data_dir).map_err(StorageError::on("sync the directory", self.data_dir))?;
        }
        let unclean = jobs.iter().filter(|job| match job {
            Job::Open(_, opening) => !opening.clean,
            Job::Create(place) => self.has_pieces(place),
        });
        // Many that are recovered are synced together, and shown after that.
        let ending =
            if unclean.count() < SYNC_TOGETHER_MIN { RecoveryEnd::Synced } else { RecoveryEnd::ToBeSynced };
        let siblings = Arc::new(NewDirectories::default());
        let opened = in_parallel(&jobs, |job| self.open(job, (&config, ending), &siblings))?;
        if opened.iter().any(|(_, is_unsynced)| *is_unsynced) {
            disk.sync_file_system(self.data_dir)
                .map_err(StorageError::on("sync the disk of", self.data_dir))?;
        }
        let partitions = opened.into_iter().map(|(partition, _)| partition);
        let places = jobs.into_iter().map(|job| match job {
            Job::Open(place, _) | Job::Create(place) => place,
        });
        Ok(places.zip(partitions).collect())
    }

    /// Returns the partition, and whether it has to be synced before it is shown.
    fn open(
        &self,
        job: &Job,
        (config, ending): (&impl Fn(Uuid) -> PartitionConfig, RecoveryEnd),
        siblings: &Arc<NewDirectories>,
    ) -> Result<(Arc<Partition>, bool), OpenError> {
        let (Job::Open(place, _) | Job::Create(place)) = job;
        let Place { topic_id, directory, .. } = place;
        let (path, config) = (self.data_dir.join(directory), config(*topic_id));
        let must_be_whole = config.log.must_be_whole;
        let opened = match job {
            Job::Create(_) => {
                if *topic_id != CATALOG_ID {
                    tracing::info!(%directory, "a recorded partition is made: its directory was not durable yet");
                }
                self.make(place, path, (config, ending), siblings.clone())
            }
            Job::Open(_, opening) => {
                let how = (*opening, ending);
                let opened = Partition::open_with(self.env, path, *topic_id, config, how);
                opened.map(|(partition, report)| {
                    tell(directory, &report);
                    (partition, report.is_unsynced)
                })
            }
        };
        // One that is made has the first epoch, which is older than any floor but that of a clean start.
        let was_closed = !matches!(job, Job::Open(_, Opening { clean: false, .. }));
        let opened = opened.and_then(|(partition, is_unsynced)| {
            partition.raise_epoch(self.epoch_floor, was_closed)?;
            Ok((partition, is_unsynced))
        });
        opened.map_err(|source| {
            let directory = directory.clone();
            match must_be_whole {
                true => OpenError::Folded { directory, source },
                false => OpenError::Partition { directory, source },
            }
        })
    }

    /// Makes a partition whose directory was never durable, with what the journal has of it.
    fn make(
        &self,
        place: &Place,
        path: PathBuf,
        (config, ending): (PartitionConfig, RecoveryEnd),
        siblings: Arc<NewDirectories>,
    ) -> Result<(Arc<Partition>, bool), StorageError> {
        let topic_id = place.topic_id;
        let made = Partition::create(self.env, path.clone(), topic_id, config.clone(), siblings)?;
        if !self.has_pieces(place) {
            return Ok((made, false));
        }
        drop(made);
        if ending == RecoveryEnd::Synced {
            let disk = &self.env.disk;
            disk.sync_dir(self.data_dir).map_err(StorageError::on("sync the directory", self.data_dir))?;
        }
        let opened = Partition::open_with(self.env, path, topic_id, config, (Opening::default(), ending));
        opened.map(|(partition, report)| (partition, report.is_unsynced))
    }

    fn has_pieces(&self, place: &Place) -> bool {
        self.env.flush.has_pieces(PartitionKey { topic_id: place.topic_id, index: place.index })
    }

    fn set_aside(&self, directory: &str) -> Result<(), StorageError> {
        let disk = &*self.env.disk;
        let aside = self.data_dir.join(SET_ASIDE);
        disk.create_dir(&aside).map_err(StorageError::on("create the directory", &aside))?;
        let kept = directory.get(..directory.floor_char_boundary(SET_ASIDE_NAME_BYTES)).unwrap_or_default();
        let (now_ms, mut number) = (self.env.clock.now_ms(), 0_u32);
        let target = loop {
            let target = match number {
                0 => aside.join(format!("{kept}.{now_ms}")),
                _ => aside.join(format!("{kept}.{now_ms}.{number}")),
            };
            if disk.list_if_there(&target).map_err(StorageError::on("list", &target))?.is_none() {
                break target;
            }
            number += 1;
        };
        tracing::warn!(directory, target = %target.display(), "no topic accounts for this directory: set aside");
        let path = self.data_dir.join(directory);
        disk.rename(&path, &target).map_err(StorageError::on("rename", &path))?;
        disk.sync_dir(&aside).map_err(StorageError::on("sync the directory", &aside))
    }
}

/// Whether a directory holds nothing but empty files and the statement whose it is.
fn is_blank(disk: &dyn Disk, dir: &Path) -> Result<bool, StorageError> {
    for entry in disk.list(dir).map_err(StorageError::on("list", dir))? {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            return Ok(false);
        }
        let is_ours = entry.name == "partition.metadata";
        if !is_ours && disk.len(&path).map_err(StorageError::on("measure", &path))? > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What `work` makes of each item, in order, by several threads if there are many. After a failure no more is begun.
fn in_parallel<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let wanted = items.len() / PARTITIONS_PER_THREAD;
    if wanted < 2 {
        return items.iter().map(work).collect();
    }
    let threads =
        wanted.min(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, THREADS_MAX));
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let take = || {
        let mut done = Vec::new();
        while failed.lock().is_none() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { break };
            match work(item) {
                Ok(result) => done.push((number, result)),
                Err(error) => *failed.lock() = Some(error),
            }
        }
        done
    };
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(take)).collect();
        let mine = take();
        helpers
            .into_iter()
            .flat_map(|helper| helper.join().expect("a panic ends the start"))
            .chain(mine)
            .collect()
    });
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    done.sort_unstable_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
