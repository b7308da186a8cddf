//! Shortening `__consumer_offsets`, so that it does not grow with every commit.
//!
//! What the state holds is appended once more and what lies before goes, see [`Rewrite`]. Commits go on meanwhile:
//! a record of which there is a newer one since the begin is left out, so that nothing old is written over what is new.

use super::GroupError;
use super::offsets::StatePlace;
use super::records::Encoded;
use super::shard::{BATCH_BYTES, Shard};
use crate::partition::Rewrite;
use std::collections::HashSet;

impl Shard {
    /// Shortens the log if it is time; whether it did. Blocks on the disk.
    pub(super) fn shorten(&self) -> Result<bool, GroupError> {
        // One at a time.
        let Some(mut policy) = self.policy.try_lock() else { return Ok(false) };
        // Records that are not understood cannot be written again.
        if !policy.is_due(&self.partition) || self.read(|state| state.has_unread())? {
            return Ok(false);
        }
        let before = self.partition.size_bytes();
        let done = self.rewrite();
        *self.rewriting.lock() = None;
        let after = self.partition.size_bytes();
        policy.tried(&self.partition, done.is_ok());
        done?;
        tracing::debug!(directory = %self.partition.directory().display(), before, after, "log shortened");
        Ok(true)
    }

    fn rewrite(&self) -> Result<(), GroupError> {
        let rewrite = self.begin_rewrite()?;
        // From here on the state has all that lies before the begin.
        self.make_durable()?;
        let mut place = None;
        while let Some(next) = self.rewrite_some(place.as_ref())? {
            place = Some(next);
            self.make_durable()?;
        }
        self.fold.finish_rewrite(rewrite).map_err(|error| {
            tracing::warn!(%error, "group records not rewritten");
            GroupError::NotStored
        })
    }

    fn begin_rewrite(&self) -> Result<Rewrite, GroupError> {
        // Nothing is appended between the begin and the note of it.
        let _live = self.live()?;
        let rewrite = self.partition.begin_rewrite().map_err(|error| {
            tracing::warn!(%error, "group records not rewritten");
            GroupError::NotStored
        })?;
        *self.rewriting.lock() = Some(HashSet::new());
        Ok(rewrite)
    }

    /// Appends the records behind a place, as many as a batch takes; the place of the last, `None` if none was left.
    fn rewrite_some(&self, place: Option<&StatePlace>) -> Result<Option<StatePlace>, GroupError> {
        self.catch_up();
        let _live = self.live()?;
        let (mut bytes, mut last) = (0, None);
        let mut records: Vec<Encoded> = Vec::new();
        self.read(|state| {
            for (place, record) in state.records_behind(place) {
                bytes += record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len);
                last = Some(place);
                records.push(record);
                if bytes >= BATCH_BYTES {
                    break;
                }
            }
        })?;
        if let Some(newer) = &*self.rewriting.lock() {
            records.retain(|record| !newer.contains(&record.key));
        }
        if !records.is_empty() {
            drop(self.append_all(&records)?);
        }
        Ok(last)
    }
}
