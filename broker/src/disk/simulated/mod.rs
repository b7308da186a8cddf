//! A disk in memory that behaves as badly as a real one may.
//!
//! What was not synced is lost or torn by [`SimulatedDisk::power_cut`]: of every file sector by sector, of every
//! directory change by change; a failed sync forgets the sectors it should have written; any call can be made to fail;
//! space runs out; the disk turns read-only. Everything follows from the seed and the calls.
//! Invariant: only [`File::sync_data`], [`Disk::sync_dir`] and [`Disk::sync_file_system`] make anything durable.

mod inode;
mod names;

use super::{Disk, Entry, File, Lock, Mapping};
use inode::Inode;
use names::{Change, Changes, Names, Node};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of call that a [`Fault`] can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Disk::open`].
    Open,
    /// [`Disk::create`].
    Create,
    /// [`Disk::len`].
    Len,
    /// [`Disk::list`].
    List,
    /// [`Disk::create_dir`].
    CreateDir,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove_file`] and [`Disk::remove_dir`].
    Remove,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`File::read_at`] and [`File::map`].
    Read,
    /// [`File::write_at`], which then writes a part of the bytes.
    Write,
    /// [`File::set_len`].
    SetLen,
    /// [`File::sync_data`], which then loses what it should have written.
    SyncData,
    /// [`Disk::sync_file_system`], which then loses what it should have written.
    SyncFileSystem,
    /// Every call that can fail.
    Any,
}

/// Calls that are to fail.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The kind of call.
    pub operation: Operation,
    /// Only paths that contain this; all if empty.
    pub path_contains: String,
    /// Matching calls that still succeed before.
    pub after: u32,
    /// Calls that fail then; the fault is spent afterwards.
    pub times: u32,
    /// What they fail with.
    pub error: io::ErrorKind,
}

/// The simulated disk. Clones share it, as processes share a disk.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: Random,
    names: Names,
    durable_names: Names,
    changes: Changes,
    inodes: BTreeMap<u64, Inode>,
    inodes_created: u64,
    locks: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    read_only: bool,
    ignore_syncs: bool,
    ignore_dir_syncs: bool,
    failures_elsewhere: u32,
    /// Calls until the power goes; `None` for no end.
    calls_left: Option<u64>,
    powered: bool,
    on_sync: OnSync,
}

/// What is called back around syncs.
#[derive(Clone, Default)]
struct OnSync(Option<Arc<dyn Fn() + Send + Sync>>);

impl OnSync {
    fn call(&self) {
        if let Some(callback) = &self.0 {
            callback();
        }
    }
}

impl std::fmt::Debug for OnSync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnSync")
    }
}

/// SplitMix64: small, seeded, good enough to choose what is lost.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn flip(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// A number from 0 up to and including `max`.
    fn up_to(&mut self, max: usize) -> usize {
        (self.next() % (max as u64 + 1)) as usize
    }
}

impl SimulatedDisk {
    /// An empty disk with the directory `/`; `seed` decides what power cuts lose.
    pub fn new(seed: u64) -> Self {
        Self::with(Random(seed), Names::root(), BTreeMap::new(), 0)
    }

    fn with(random: Random, names: Names, inodes: BTreeMap<u64, Inode>, inodes_created: u64) -> Self {
        let state = State {
            random,
            durable_names: names.clone(),
            names,
            changes: Changes::default(),
            inodes,
            inodes_created,
            locks: BTreeSet::new(),
            faults: Vec::new(),
            capacity: None,
            read_only: false,
            ignore_syncs: false,
            ignore_dir_syncs: false,
            failures_elsewhere: 0,
            calls_left: None,
            powered: true,
            on_sync: OnSync::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk as it is found when the power comes back. The old one fails every call from now on.
    #[must_use]
    pub fn power_cut(&self) -> Self {
        let mut state = self.state.lock();
        state.powered = false;
        let mut random = Random(state.random.next());
        let changes = std::mem::take(&mut state.changes);
        let names = state.durable_names.after_power_cut(changes, &mut random);
        let linked: BTreeSet<u64> = names.files().map(|(inode, _)| inode).collect();
        let inodes = std::mem::take(&mut state.inodes)
            .into_iter()
            .filter(|(number, _)| linked.contains(number))
            .map(|(number, inode)| (number, inode.after_power_cut(&mut random)))
            .collect();
        Self::with(random, names, inodes, state.inodes_created)
    }

    /// Lets the power go within the `calls`-th call from now on: that one and all later ones fail, until
    /// [`SimulatedDisk::power_cut`] says what is left.
    pub fn cut_power_after(&self, calls: u64) {
        self.state.lock().calls_left = Some(calls);
    }

    /// The disk as another process finds it after this one was killed: nothing is lost, but handles and locks are.
    #[must_use]
    pub fn process_kill(&self) -> Self {
        let mut state = self.state.lock();
        state.powered = false;
        let random = Random(state.random.next());
        let inodes = std::mem::take(&mut state.inodes);
        let killed = Self::with(random, state.names.clone(), inodes, state.inodes_created);
        let mut after = killed.state.lock();
        after.durable_names = state.durable_names.clone();
        after.changes = std::mem::take(&mut state.changes);
        after.capacity = state.capacity;
        after.read_only = state.read_only;
        after.ignore_syncs = state.ignore_syncs;
        after.ignore_dir_syncs = state.ignore_dir_syncs;
        drop(after);
        killed
    }

    /// Another disk with the same content, as a copy that was made of this one would have it: all of it is durable.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let state = self.state.lock();
        let mut inodes = state.inodes.clone();
        inodes.values_mut().for_each(Inode::sync);
        Self::with(Random(seed), state.names.clone(), inodes, state.inodes_created)
    }

    /// Flips a bit of a file that has content, as chance has it, among those that `matters` picks. Returns which.
    pub fn flip_bit(&self, matters: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        let mut state = self.state.lock();
        let State { random, names, inodes, .. } = &mut *state;
        let has_content = |inode: u64| inodes.get(&inode).is_some_and(|inode| inode.len() > 0);
        let files: Vec<_> =
            names.files().filter(|(inode, path)| has_content(*inode) && matters(path)).collect();
        let (inode, path) = files.get(random.up_to(files.len().checked_sub(1)?))?;
        let inode = inodes.get_mut(inode)?;
        let byte = random.up_to(usize::try_from(inode.len()).ok()? - 1);
        inode.flip(byte, random.up_to(7) as u8);
        Some(path.to_path_buf())
    }

    /// Has `callback` called at the begin and at the end of every sync of a file or a directory, while the disk can be
    /// used: for what others do meanwhile.
    pub fn on_sync(&self, callback: impl Fn() + Send + Sync + 'static) {
        self.state.lock().on_sync = OnSync(Some(Arc::new(callback)));
    }

    /// Lets some calls fail.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Whether a fault is still to come or not spent.
    pub fn has_faults(&self) -> bool {
        !self.state.lock().faults.is_empty()
    }

    /// Forgets all faults that are not spent.
    pub fn clear_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// Bytes that all files together may have; `None` for no limit.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.state.lock().capacity = capacity;
    }

    /// Whether every change is refused.
    pub fn set_read_only(&self, read_only: bool) {
        self.state.lock().read_only = read_only;
    }

    /// Whether syncs say that all is well and do nothing: for a test to show that it would notice.
    pub fn set_ignore_syncs(&self, ignore_syncs: bool) {
        let mut state = self.state.lock();
        (state.ignore_syncs, state.ignore_dir_syncs) = (ignore_syncs, ignore_syncs);
    }

    /// The same for the syncs of directories alone.
    pub fn set_ignore_dir_syncs(&self, ignore_dir_syncs: bool) {
        self.state.lock().ignore_dir_syncs = ignore_dir_syncs;
    }

    /// Has so many syncs of the file system fail for files of somebody else: what is here they write.
    pub fn fail_elsewhere(&self, times: u32) {
        self.state.lock().failures_elsewhere = times;
    }

    /// Bytes in all files that have a name.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }
}

impl SimulatedDisk {
    fn handle(&self, state: &mut State, path: &Path, inode: u64) -> io::Result<Arc<dyn File>> {
        let losses_told = AtomicU64::new(state.inode(inode)?.losses());
        Ok(Arc::new(SimulatedFile { state: self.state.clone(), path: path.into(), inode, losses_told }))
    }
}

impl State {
    /// Refuses the call if the power is off or a fault says so.
    fn enter(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        if let Some(calls_left) = &mut self.calls_left {
            *calls_left = calls_left.saturating_sub(1);
            self.powered &= *calls_left > 0;
        }
        if !self.powered {
            return Err(io::Error::other("the power is off"));
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        let path = path.to_string_lossy();
        let matches = |fault: &&mut Fault| {
            (fault.operation == operation || fault.operation == Operation::Any)
                && (fault.path_contains.is_empty() || path.contains(&fault.path_contains))
        };
        if let Some(fault) = self.faults.iter_mut().find(matches) {
            if fault.after > 0 {
                fault.after -= 1;
            } else {
                let error = fault.error;
                fault.times = fault.times.saturating_sub(1);
                self.faults.retain(|fault| fault.after > 0 || fault.times > 0);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Like [`State::enter`] for a call that changes something.
    fn enter_to_change(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        self.enter(operation, path)?;
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.enter_to_change(Operation::SyncDir, dir)?;
        if self.ignore_dir_syncs {
            return Ok(());
        }
        self.changes.sync(dir, &mut self.durable_names);
        Ok(())
    }

    fn sync_data(&mut self, inode: u64, path: &Path) -> io::Result<()> {
        if let Err(error) = self.enter_to_change(Operation::SyncData, path) {
            if self.powered {
                self.inode(inode)?.lose_unsynced();
            }
            return Err(error);
        }
        if !self.ignore_syncs {
            self.inode(inode)?.sync();
        }
        Ok(())
    }

    fn change_names(&mut self, change: Change) {
        self.names.apply(&change);
        self.changes.push(change);
    }

    fn inode(&mut self, number: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used_bytes(&self) -> u64 {
        self.names.files().filter_map(|(number, _)| self.inodes.get(&number)).map(Inode::len).sum()
    }
}

/// Syncs under the lock, and calls back before and after without it.
fn around_sync(state: &Mutex<State>, sync: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
    let on_sync = state.lock().on_sync.clone();
    on_sync.call();
    let result = sync(&mut state.lock());
    on_sync.call();
    result
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.enter(Operation::Open, path)?;
        let inode = state.names.file(path)?;
        self.handle(&mut state, path, inode)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.enter_to_change(Operation::Create, path)?;
        let inode = match state.names.file(path) {
            Ok(inode) => {
                state.inode(inode)?.set_len(0);
                inode
            }
            Err(_) => {
                state.names.check_parent(path)?;
                state.inodes_created += 1;
                let inode = state.inodes_created;
                state.inodes.insert(inode, Inode::default());
                state.change_names(Change::Link(path.into(), Node::File(inode)));
                inode
            }
        };
        self.handle(&mut state, path, inode)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.enter(Operation::Len, path)?;
        let inode = state.names.file(path)?;
        state.inode(inode).map(|inode| inode.len())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.state.lock();
        state.enter(Operation::List, dir)?;
        state.names.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter_to_change(Operation::CreateDir, dir)?;
        if state.names.is_dir(dir) {
            return Ok(());
        }
        state.names.check_parent(dir)?;
        state.change_names(Change::Link(dir.into(), Node::Dir));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter_to_change(Operation::Rename, from)?;
        state.names.check_there(from)?;
        state.names.check_parent(to)?;
        state.change_names(Change::Move(from.into(), to.into()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter_to_change(Operation::Remove, path)?;
        state.names.file(path)?;
        state.change_names(Change::Unlink(path.into()));
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter_to_change(Operation::Remove, dir)?;
        if !state.names.list(dir)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.change_names(Change::Unlink(dir.into()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        around_sync(&self.state, |state| state.sync_dir(dir))
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Err(error) = state.enter_to_change(Operation::SyncFileSystem, path) {
            if state.powered {
                state.inodes.values_mut().for_each(Inode::lose_untold);
            }
            return Err(error);
        }
        if state.ignore_syncs {
            return Ok(());
        }
        let State { changes, durable_names, .. } = &mut *state;
        changes.sync_all(durable_names);
        // What was lost before stays lost, and its file is the one to tell.
        state.inodes.values_mut().for_each(Inode::sync);
        match state.failures_elsewhere.checked_sub(1) {
            Some(left) => {
                state.failures_elsewhere = left;
                Err(io::Error::other("a file of somebody else cannot be written"))
            }
            None => Ok(()),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut state = self.state.lock();
        if state.locks.insert(path.into()) {
            Ok(Box::new(SimulatedLock { state: self.state.clone(), path: path.into() }))
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    fn available_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state.lock();
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used_bytes())))
    }
}

#[derive(Debug)]
struct SimulatedLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.state.lock().locks.remove(&self.path);
    }
}

#[derive(Debug)]
struct SimulatedFile {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    inode: u64,
    /// Losses of the file when it was opened, or of which a sync told since.
    losses_told: AtomicU64,
}

impl File for SimulatedFile {
    fn size(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.inode(self.inode).map(|inode| inode.len())
    }

    fn read_at(&self, position: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.enter(Operation::Read, &self.path)?;
        let bytes = state.inode(self.inode)?.bytes(position, len);
        into.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn is_cached(&self, _position: u64, _len: usize) -> bool {
        true
    }

    fn write_at(&self, position: u64, [first, second]: [&[u8]; 2]) -> io::Result<()> {
        let mut bytes = [first, second].concat();
        let mut state = self.state.lock();
        let mut result = state.enter_to_change(Operation::Write, &self.path);
        if let Err(error) = &result {
            // A write that fails may have put down some of its bytes, unless the disk refused the call altogether.
            let refused = error.kind() == io::ErrorKind::ReadOnlyFilesystem || !state.powered;
            let written = if refused { 0 } else { state.random.up_to(bytes.len()) };
            bytes.truncate(written);
        } else if let Some(capacity) = state.capacity {
            let used = state.used_bytes();
            let inode_len = state.inode(self.inode)?.len();
            let room = (capacity.saturating_sub(used) + inode_len).saturating_sub(position);
            if bytes.len() as u64 > room {
                bytes.truncate(room as usize);
                result = Err(io::ErrorKind::StorageFull.into());
            }
        }
        if !bytes.is_empty() {
            state.inode(self.inode)?.write(position, &bytes);
        }
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter_to_change(Operation::SetLen, &self.path)?;
        state.inode(self.inode)?.set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        around_sync(&self.state, |state| {
            state.sync_data(self.inode, &self.path)?;
            let losses = state.inode(self.inode)?.losses();
            match self.losses_told.swap(losses, Ordering::Relaxed) < losses {
                true => Err(io::Error::other("an earlier sync lost what was written")),
                false => Ok(()),
            }
        })
    }

    fn map(&self) -> io::Result<Mapping> {
        let mut state = self.state.lock();
        state.enter(Operation::Read, &self.path)?;
        let inode = state.inode(self.inode)?;
        Ok(Mapping::Copied(inode.bytes(0, usize::MAX).to_vec()))
    }
}
