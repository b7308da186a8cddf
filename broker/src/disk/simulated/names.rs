//! The tree of names of a simulated disk, and what becomes of changes to it when the power goes.
//!
//! Invariant: a name is only there if its directory is. A change survives a power cut or does not, whole; one that
//! builds on a lost change is lost too.

use super::{Entry, Random};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longest name of a file in bytes, as with the file systems of Linux.
const NAME_BYTES_MAX: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    /// The number of the inode that has the bytes.
    File(u64),
}

/// One change to the names of a directory.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    /// From one name to another; what lies below a directory moves along.
    Move(PathBuf, PathBuf),
}

/// Changes that are not durable, oldest first. One that a sync covered stays while an earlier one is not durable that
/// says what the directory it was made in is called.
#[derive(Debug, Default)]
pub(super) struct Changes(Vec<Pending>);

#[derive(Debug)]
struct Pending {
    change: Change,
    is_synced: bool,
}

impl Changes {
    pub(super) fn push(&mut self, change: Change) {
        if let Change::Move(from, to) = &change {
            self.0.iter_mut().for_each(|pending| pending.change.follow(from, to));
        }
        self.0.push(Pending { change, is_synced: false });
    }

    /// Applies to what is `durable` the changes that were made in `dir`.
    pub(super) fn sync(&mut self, dir: &Path, durable: &mut Names) {
        self.0.iter_mut().for_each(|pending| pending.is_synced |= pending.change.is_in(dir));
        let mut waiting: Vec<Pending> = Vec::with_capacity(self.0.len());
        for pending in self.0.drain(..) {
            let waits_for = |earlier: &Pending| pending.change.builds_on(&earlier.change.paths());
            if pending.is_synced && !waiting.iter().any(waits_for) {
                durable.apply(&pending.change);
            } else {
                waiting.push(pending);
            }
        }
        self.0 = waiting;
    }

    /// Applies all of them.
    pub(super) fn sync_all(&mut self, durable: &mut Names) {
        self.0.drain(..).for_each(|pending| durable.apply(&pending.change));
    }
}

impl Change {
    /// Whether syncing `dir` makes the change durable.
    fn is_in(&self, dir: &Path) -> bool {
        self.paths().iter().any(|path| path.parent() == Some(dir))
    }

    /// What lies below a directory goes with it when it gets another name, whether it is durable or not.
    fn follow(&mut self, from: &Path, to: &Path) {
        let paths: [Option<&mut PathBuf>; 2] = match self {
            Self::Link(path, _) | Self::Unlink(path) => [Some(path), None],
            Self::Move(one, other) => [Some(one), Some(other)],
        };
        for path in paths.into_iter().flatten() {
            if let Ok(below) = path.strip_prefix(from)
                && !below.as_os_str().is_empty()
            {
                *path = to.join(below);
            }
        }
    }

    /// Whether one of `paths` is a name of the change, or of a directory above.
    fn builds_on(&self, paths: &[impl AsRef<Path>]) -> bool {
        self.paths().iter().any(|path| paths.iter().any(|above| path.starts_with(above)))
    }

    fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Link(path, _) | Self::Unlink(path) => vec![path],
            Self::Move(from, to) => vec![from, to],
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Names {
    /// By path, as text: its order costs less than that of the components.
    nodes: BTreeMap<OsString, Node>,
}

impl Names {
    pub(super) fn root() -> Self {
        Self { nodes: BTreeMap::from([("/".into(), Node::Dir)]) }
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Link(path, node) => {
                self.nodes.insert(path.as_os_str().to_owned(), *node);
            }
            Change::Unlink(path) => {
                self.nodes.remove(path.as_os_str());
            }
            Change::Move(from, to) => {
                let below: Vec<_> = self.nodes.extract_if(below(from), |_, _| true).collect();
                if let Some(node) = self.nodes.remove(from.as_os_str()) {
                    self.nodes.insert(to.into(), node);
                }
                for (path, node) in below {
                    let rest = Path::new(&path).strip_prefix(from).unwrap_or(Path::new(""));
                    self.nodes.insert(to.join(rest).into(), node);
                }
            }
        }
    }

    /// The names that are there when each of `changes` that no sync covered was lost or survived as chance has it.
    pub(super) fn after_power_cut(&self, changes: Changes, random: &mut Random) -> Self {
        let mut names = self.clone();
        let mut lost: Vec<PathBuf> = Vec::new();
        for Pending { change, is_synced } in changes.0 {
            if change.builds_on(&lost) || !is_synced && random.flip() {
                lost.extend(change.paths().into_iter().map(Path::to_path_buf));
            } else {
                names.apply(&change);
            }
        }
        let is_dir = |path: &Path| names.nodes.get(path.as_os_str()) == Some(&Node::Dir);
        let reachable = |path: &OsString| Path::new(path).ancestors().skip(1).all(is_dir);
        let nodes = names.nodes.iter().filter(|(path, _)| reachable(path));
        Self { nodes: nodes.map(|(path, node)| (path.clone(), *node)).collect() }
    }

    /// The inodes of all files, and their paths.
    pub(super) fn files(&self) -> impl Iterator<Item = (u64, &Path)> {
        self.nodes.iter().filter_map(|(path, node)| match node {
            Node::File(inode) => Some((*inode, Path::new(path))),
            Node::Dir => None,
        })
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.nodes.get(path.as_os_str()) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.nodes.get(path.as_os_str()) == Some(&Node::Dir)
    }

    pub(super) fn check_there(&self, path: &Path) -> io::Result<()> {
        if self.nodes.contains_key(path.as_os_str()) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    pub(super) fn check_parent(&self, path: &Path) -> io::Result<()> {
        let name_len = path.file_name().map_or(0, |name| name.len());
        match path.parent() {
            _ if name_len > NAME_BYTES_MAX => Err(io::ErrorKind::InvalidFilename.into()),
            Some(parent) if self.is_dir(parent) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entry = |(path, node): (&OsString, &Node)| {
            let (parent, name) = path.to_str()?.rsplit_once('/')?;
            let is_inside =
                Path::new(if parent.is_empty() { "/" } else { parent }) == dir && !name.is_empty();
            is_inside.then(|| Entry { name: name.to_owned(), is_dir: *node == Node::Dir })
        };
        Ok(self.nodes.range(below(dir)).filter_map(entry).collect())
    }
}

/// Where all that lies below a directory is, among all paths.
fn below(dir: &Path) -> Range<OsString> {
    let text = dir.as_os_str().to_string_lossy();
    let text = text.trim_end_matches('/');
    // The character after the one that ends a component.
    format!("{text}/").into()..format!("{text}0").into()
}
