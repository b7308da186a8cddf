//! What goes wrong below a log, with the file and the numbers in it.
//!
//! Invariant: an error names what was tried on which path; nothing here is turned into a protocol error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A call to the disk that failed. Cloning shares the cause, so that every waiter can have it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct StorageError {
    /// What was tried, as an infinitive.
    pub action: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// What the disk said.
    #[source]
    pub source: Arc<io::Error>,
}

impl StorageError {
    /// For use with `map_err`.
    pub(crate) fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { action, path: path.to_path_buf(), source: Arc::new(source) }
    }

    /// A file whose bytes cannot be what was written.
    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        let cause = io::Error::new(io::ErrorKind::InvalidData, format!("damaged: {}", what.into()));
        Self::on("read", path)(cause)
    }

    /// Whether the disk would have had to be waited for.
    pub fn would_block(&self) -> bool {
        self.source.kind() == io::ErrorKind::WouldBlock
    }

    /// Whether the thing is not there at all.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}
