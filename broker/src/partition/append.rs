//! Appending: everything that decides whether a batch is stored, and the one place where it is.
//!
//! Invariant: offsets, indexes, producers and the flush queue follow every stored batch under the same lock, so that
//! when [`Partition::append`] returns, later calls see all of it. The largest timestamp in the header of a stored batch is
//! that of its records, whatever its producer said: indexes, lookups and retention go by headers.

use super::durability::DurableMark;
use super::offsets::Advance;
use super::producers::Sequenced;
use super::{AppendError, Health, Partition, PartitionConfig, State, Wakers};
use crate::clock::Moment;
use crate::flush::{FlushMode, is_too_dirty};
use bytes::Bytes;
use kappa_protocol::record::{Batch, BatchError, DecompressError, TimestampRange, TimestampType};
use std::sync::atomic::Ordering;

/// Time after a failure of the disk in which appends are refused without trying, in ms.
pub(super) const RETRY_AFTER_MS: i64 = 200;

/// How many times its size the records of a batch may decompress to and still be looked into: few do that are no bomb.
const EXPANSION_MAX: usize = 64;
/// Decompressed bytes beyond that which are looked into, of all batches of a request together.
const EXPANDED_BYTES_SPARE: usize = 4 * 1024 * 1024;

/// What the batches of one request may decompress to beyond what the size of each allows: a request of however many small
/// bombs takes no longer than its size allows.
#[derive(Debug)]
pub struct Expansion {
    spare: usize,
}

/// A batch that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset after its last.
    pub next_offset: i64,
    /// The timestamp that the broker gave it, in ms; `None` if it kept its producer's.
    pub log_append_time: Option<i64>,
    /// First offset of the log.
    pub log_start: i64,
    /// Whether it had been stored before, by an earlier try of its producer.
    pub is_duplicate: bool,
    /// What to wait for until it is durable.
    pub mark: DurableMark,
}

/// What an append asks of the flush queue.
enum Flush {
    No,
    Now,
    /// At this time of the steady clock in ms.
    At(i64),
}

impl Partition {
    /// Appends one batch as a producer sent it. Under [`FlushMode::Commit`] it is visible once synced, see
    /// [`Partition::durable`], else at once.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was stored then, except by an earlier try of which this is the duplicate.
    pub fn append(&self, batch: Bytes) -> Result<Appended, AppendError> {
        self.append_of(batch, &mut Expansion::default())
    }

    /// The same for one batch of a request of many, whose `expansion` they share.
    ///
    /// # Errors
    /// As [`Partition::append`].
    pub fn append_of(&self, batch: Bytes, expansion: &mut Expansion) -> Result<Appended, AppendError> {
        let view = Batch::produced(&batch)?;
        let limit = expansion.limit(&view);
        let timestamps = expansion.timestamps(&view)?;
        if self.needs_keys.load(Ordering::Relaxed) {
            check_keys(&view, limit)?;
        }
        if view.is_transactional() {
            return Err(AppendError::Transactional { producer_id: view.producer_id() });
        }
        let now = self.env.clock.moment();
        let mut wakers = Wakers::default();
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(AppendError::Closed);
        }
        let corrected = check_config(&view, timestamps, &state.config, now.now_ms)?;
        let stored = match &corrected {
            Some(bytes) => Batch::produced(bytes)?,
            None => view,
        };
        let healed = match state.needs_healing() {
            true => {
                // A cut begins an epoch, which nothing that syncs or deletes may come between.
                let one_at_a_time = self.syncing.try_lock();
                state.heal(now, one_at_a_time.is_some())
            }
            false => Ok(()),
        };
        let appended = match healed.and_then(|()| state.append(&stored, now, &mut wakers)) {
            Ok(appended) => appended,
            Err(error) => {
                if matches!(error, AppendError::Storage(_)) {
                    let State { awaited, producers, .. } = &mut *state;
                    awaited.refused(&stored, producers, now.steady_ms);
                }
                drop(state);
                self.retry_later();
                return Err(error);
            }
        };
        let (mut flush, mut unlisted) = (Flush::No, None);
        if !appended.is_duplicate {
            self.env.flush.count_dirty(stored.size() as u64);
            flush = state.flush_after(&stored, now.steady_ms);
            unlisted = (!std::mem::replace(&mut state.flush.is_listed, true)).then(|| self.me.clone());
        }
        drop(state);
        wakers.wake();
        self.env.flush.appended(unlisted);
        match flush {
            Flush::No => {}
            Flush::Now => self.push_to_queue(),
            Flush::At(due_ms) => {
                if let Some(me) = self.me.upgrade() {
                    self.env.flush.push_at(due_ms, me);
                }
            }
        }
        Ok(appended)
    }
}

impl Default for Expansion {
    fn default() -> Self {
        Self { spare: EXPANDED_BYTES_SPARE }
    }
}

impl Expansion {
    /// Decompressed bytes of a batch that are looked into.
    fn limit(&self, batch: &Batch<'_>) -> usize {
        batch.size().saturating_mul(EXPANSION_MAX).saturating_add(self.spare)
    }

    /// The timestamps of a batch's records, or what its header says of them where they decompress to so much that one
    /// request of many such batches would hold up everybody.
    fn timestamps(&mut self, batch: &Batch<'_>) -> Result<TimestampRange, BatchError> {
        let own = batch.size().saturating_mul(EXPANSION_MAX);
        let found = batch.timestamps_and_len(self.limit(batch));
        let beyond = found.as_ref().map_or(usize::MAX, |(_, len)| len.saturating_sub(own));
        self.spare = self.spare.saturating_sub(beyond);
        match found {
            Err(BatchError::Decompress(DecompressError::TooLarge { .. })) => {
                let (first, latest) = (batch.base_timestamp(), batch.max_timestamp());
                let earliest = if first == -1 { i64::MAX } else { first };
                Ok(TimestampRange { earliest, latest: latest.max(first).max(-1) })
            }
            found => found.map(|(timestamps, _)| timestamps),
        }
    }
}

/// Refuses a batch with a record that has no key, or that decompresses to more than `limit` bytes: its keys are unknown.
fn check_keys(batch: &Batch<'_>, limit: usize) -> Result<(), AppendError> {
    for (index, record) in (0..).zip(&batch.decode(limit)?) {
        if record.map_err(BatchError::Record)?.key.is_none() {
            return Err(AppendError::NoKey { index });
        }
    }
    Ok(())
}

impl State {
    fn append(
        &mut self,
        batch: &Batch<'_>,
        now: Moment,
        wakers: &mut Wakers,
    ) -> Result<Appended, AppendError> {
        let log_start = self.offsets.log_start;
        if let Sequenced::Duplicate(stamp) = self.producers.check(batch)? {
            let next_offset = stamp.last_offset + 1;
            return Ok(Appended {
                base_offset: stamp.base_offset(),
                next_offset,
                // All records of the batch had the time at which it was appended.
                log_append_time: self.log_append_time(stamp.timestamp),
                log_start,
                is_duplicate: true,
                mark: DurableMark { next_offset, cuts: self.cuts.count() },
            });
        }
        self.awaited.check(batch)?;
        let base_offset = match self.write(batch, now.now_ms) {
            Ok(base_offset) => base_offset,
            Err(error) => {
                tracing::error!(%error, cause = %error.source, "an append failed, the partition refuses writes");
                let retry_ms = now.steady_ms.saturating_add(RETRY_AFTER_MS);
                self.health = Health::Broken { error: error.clone(), retry_ms, cut_pending: false };
                return Err(error.into());
            }
        };
        if let Health::Broken { .. } = self.health {
            tracing::info!(base_offset, "an append succeeded again, the partition has healed");
            self.health = Health::Sound;
        }
        self.producers.add(batch, base_offset, now.steady_ms, self.held.limit());
        self.held.set(self.producers.len());
        self.awaited.came(batch);
        let next_offset = self.log.next_offset();
        self.offsets.advance(Advance::Appended { log_end: next_offset });
        if !self.is_commit() {
            self.make_safe(self.log.end(), wakers);
        }
        let mark = DurableMark { next_offset, cuts: self.cuts.count() };
        let log_append_time = self.log_append_time(batch.max_timestamp());
        Ok(Appended { base_offset, next_offset, log_append_time, log_start, is_duplicate: false, mark })
    }

    /// What the answer says of the largest timestamp of a batch: nothing where it is its producer's.
    fn log_append_time(&self, max_timestamp: i64) -> Option<i64> {
        (self.config.timestamp_type == TimestampType::LogAppendTime).then_some(max_timestamp)
    }

    fn write(&mut self, batch: &Batch<'_>, now_ms: i64) -> Result<i64, crate::log::StorageError> {
        if self.log.needs_roll(batch, now_ms) {
            self.log.roll(now_ms, self.producers.clone())?;
        }
        self.log.append(batch)
    }

    pub(super) fn needs_healing(&self) -> bool {
        !matches!(self.health, Health::Sound) || self.log.needs_repair()
    }

    /// Makes a broken partition ready for an append, if it is time to try. What a sync that failed could not cut off is cut
    /// here, if the lock for syncs is held.
    fn heal(&mut self, now: Moment, may_cut: bool) -> Result<(), AppendError> {
        self.check_fence()?;
        let needs_cut = self.log.needs_repair();
        if let Health::Broken { error, retry_ms, cut_pending } = &mut self.health {
            let must_wait =
                self.is_blocked || self.must_write_again || ((*cut_pending || needs_cut) && !may_cut);
            if now.steady_ms < *retry_ms || must_wait {
                return Err(error.clone().into());
            }
            *retry_ms = now.steady_ms.saturating_add(RETRY_AFTER_MS);
        }
        if let Some(job) = self.begin_cut()? {
            job.run()?;
            self.finish_cut(job, now)?;
        }
        if let Some(mut job) = self.log.begin_repair() {
            let repaired = job.run();
            self.finish_repair(&job, &repaired);
            repaired?;
        }
        Ok(())
    }

    /// What the flush policy wants after an append.
    fn flush_after(&mut self, batch: &Batch<'_>, steady_ms: i64) -> Flush {
        let policy = self.config.flush;
        let flush = &mut self.flush;
        flush.unsynced_records += i64::from(batch.count());
        flush.unsynced_bytes += batch.size() as u64;
        let is_due = policy.mode() == FlushMode::Commit
            || flush.unsynced_records >= policy.messages
            || is_too_dirty(flush.unsynced_bytes)
            || self.log.has_unsaved_roll()
            || self.log.wants_spare();
        if is_due {
            return if std::mem::replace(&mut flush.is_queued, true) { Flush::No } else { Flush::Now };
        }
        match policy.interval_ms().map(|interval_ms| steady_ms.saturating_add(interval_ms)) {
            Some(due_ms) if flush.due_ms.is_none_or(|known| !(steady_ms..=due_ms).contains(&known)) => {
                flush.due_ms = Some(due_ms);
                Flush::At(due_ms)
            }
            _ => Flush::No,
        }
    }
}

/// Checks a batch, whose records have these timestamps, against the topic's settings. Returns it with the broker's time
/// in it if they ask for that, or with the largest timestamp of its records if its header says another.
fn check_config(
    batch: &Batch<'_>,
    timestamps: TimestampRange,
    config: &PartitionConfig,
    now_ms: i64,
) -> Result<Option<Vec<u8>>, AppendError> {
    let size = batch.size();
    if size > config.max_message_bytes {
        return Err(AppendError::TooLarge { size, max: config.max_message_bytes });
    }
    let segment_bytes = config.log.segment_bytes;
    if size as u64 > u64::from(segment_bytes) {
        return Err(AppendError::LargerThanSegment { size, segment_bytes });
    }
    if config.timestamp_type == TimestampType::LogAppendTime {
        // Offset and epoch are given when it is written.
        let header = batch.header_with_append_time(batch.base_offset(), batch.leader_epoch(), now_ms);
        return Ok(Some([&header, batch.body()].concat()));
    }
    if batch.timestamp_type() == TimestampType::LogAppendTime {
        return Err(AppendError::TimestampType);
    }
    let TimestampRange { earliest, latest } = timestamps;
    if now_ms.saturating_sub(earliest) > config.timestamp_before_max_ms {
        return Err(AppendError::Timestamp { timestamp: earliest, now_ms });
    }
    if latest.saturating_sub(now_ms) > config.timestamp_after_max_ms {
        return Err(AppendError::Timestamp { timestamp: latest, now_ms });
    }
    let is_right = batch.max_timestamp() == latest;
    Ok((!is_right).then(|| [&batch.header_with_max_timestamp(latest), batch.body()].concat()))
}
