//! Shortening the catalog's log, so that it does not grow with every topic that comes and goes.
//!
//! What the state holds is recorded once more and what lies before goes, see [`crate::partition::Rewrite`]. The worker does it between two
//! changes, so nothing is recorded meanwhile.

use super::catalog::Catalog;
use super::error::TopicError;
use super::record::CatalogRecord;
use super::start::SET_ASIDE;
use super::state::CatalogState;
use crate::log::{StorageError, directory_topic_id, is_retired};
use std::collections::HashSet;
use uuid::Uuid;

/// Bytes of keys and values at which a batch ends.
const BATCH_BYTES: usize = 256 * 1024;

impl Catalog {
    /// Shortens the log if it is time.
    pub(super) fn shorten(&self) {
        let mut policy = self.policy.lock();
        if !policy.is_due(&self.log) {
            return;
        }
        let before = self.log.size_bytes();
        let done = self.rewrite();
        policy.tried(&self.log, done.is_ok());
        match done {
            Ok(()) => tracing::debug!(before, after = self.log.size_bytes(), "catalog shortened"),
            Err(error) => tracing::warn!(%error, "the catalog's log stays as long as it is"),
        }
    }

    fn rewrite(&self) -> Result<(), TopicError> {
        let owed = self.owed().map_err(TopicError::storage)?;
        let records = self.state(|state| state.records(|id| owed.contains(&id)).collect::<Vec<_>>())?;
        let rewrite = self.log.begin_rewrite().map_err(TopicError::storage)?;
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |record: &&CatalogRecord| {
                bytes += record.key().len() + record.value().map_or(0, |value| value.len());
                bytes <= BATCH_BYTES
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (batch, later) = rest.split_at(count.min(rest.len()));
            self.write(batch)?;
            rest = later;
        }
        self.fold.finish_rewrite(rewrite).map_err(TopicError::storage)?;
        let forget = |state: &mut CatalogState| state.forget_deleted(|id| owed.contains(&id));
        self.fold.with_mut(forget).map_err(TopicError::storage)
    }

    /// Deleted topics that have a directory left which only the catalog's record says is to be removed.
    fn owed(&self) -> Result<HashSet<Uuid>, StorageError> {
        let (disk, data_dir) = (&*self.env.disk, self.data_dir.as_path());
        // A directory that has another name by now keeps it.
        disk.sync_dir(data_dir).map_err(StorageError::on("sync the directory", data_dir))?;
        let mut owed = HashSet::new();
        for entry in disk.list(data_dir).map_err(StorageError::on("list", data_dir))? {
            let name = entry.name.as_str();
            if !entry.is_dir || name == SET_ASIDE || is_retired(name) || self.is_open(name) {
                continue;
            }
            owed.extend(directory_topic_id(disk, &data_dir.join(name))?);
        }
        Ok(owed)
    }

    /// Whether a directory is that of a partition that is served.
    fn is_open(&self, directory: &str) -> bool {
        let place = directory.rsplit_once('-').and_then(|(name, index)| Some((name, index.parse().ok()?)));
        place.is_some_and(|(name, index)| self.registry.partition(name, index).is_some())
    }
}
