//! Global tables: loaded to their present end before anything is processed, then followed.

use super::{
    AppError, StartError,
    shared::{Shared, TopicNames},
};
use crate::{
    processor::Counters,
    record::{Header, Headers, Meta},
    topology::{Globals, TopicId, Topology},
};
use bytes::Bytes;
use kappa_client::{Client, Consumer, ConsumerConfig, FetchedBatch, OffsetReset, TopicPartition};
use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

const POLL: Duration = Duration::from_millis(500);

/// Reads the topics of global tables.
pub(super) struct GlobalReader {
    consumer: Consumer,
    tables: BTreeMap<Arc<str>, (usize, Arc<str>)>,
    globals: Globals,
    topology: Topology,
    skip_undecodable: bool,
    /// What has been dropped.
    dropped: Counters,
}

impl GlobalReader {
    /// Loads all global tables up to where their topics end now; `None` if the topology has none.
    pub(super) async fn load(
        topology: &Topology,
        client: &Client,
        (names, counts): (&TopicNames, &[i32]),
        globals: &Globals,
        skip_undecodable: bool,
    ) -> Result<Option<GlobalReader>, StartError> {
        let mut tables = BTreeMap::new();
        let mut partitions = Vec::new();
        for (index, global) in topology.0.globals.iter().enumerate() {
            let count = |topic: TopicId| counts.get(topic.0 as usize).copied().unwrap_or(0);
            partitions
                .extend((0..count(global.topic)).map(|partition| names.partition(global.topic, partition)));
            tables.insert(Arc::clone(names.name(global.topic)), (index, Arc::clone(&global.name)));
        }
        if tables.is_empty() {
            return Ok(None);
        }
        let config =
            ConsumerConfig::default().auto_commit(None::<Duration>).offset_reset(OffsetReset::Earliest);
        let consumer = Consumer::new(client, config)?;
        let (begins, ends) =
            (consumer.beginning_offsets(&partitions).await?, consumer.end_offsets(&partitions).await?);
        consumer.assign(partitions.iter().cloned())?;
        for (partition, begin) in &begins {
            consumer.seek(partition, *begin)?;
        }
        let (globals, dropped) = (globals.clone(), Counters::default());
        let topology = topology.clone();
        let mut reader = GlobalReader { consumer, tables, globals, topology, skip_undecodable, dropped };
        let open = |reader: &GlobalReader, partition: &TopicPartition| {
            let end = ends.get(partition).copied().unwrap_or(0);
            let at = reader.consumer.position(partition).or_else(|| begins.get(partition).copied());
            at.is_none_or(|at| at < end)
        };
        while partitions.iter().any(|partition| open(&reader, partition)) {
            let batches = reader.consumer.poll(POLL).await?;
            reader.apply(batches)?;
        }
        Ok(Some(reader))
    }

    /// What has been dropped so far.
    pub(super) fn dropped(&self) -> Counters {
        self.dropped
    }

    fn apply(&mut self, batches: Vec<FetchedBatch>) -> Result<(), StartError> {
        for fetched in batches {
            let Some((index, name)) = self.tables.get(&fetched.partition.topic) else { continue };
            let Some(table) = self.globals.table(*index) else { continue };
            for record in fetched.records() {
                let record = record.map_err(|reason| StartError::Record {
                    topic: Arc::clone(&fetched.partition.topic),
                    partition: fetched.partition.partition,
                    offset: fetched.batch.base_offset(),
                    reason: Arc::new(reason),
                })?;
                let own = |(key, value): (Cow<'_, str>, Option<&[u8]>)| Header {
                    key: Arc::from(key),
                    value: value.map(Bytes::copy_from_slice),
                };
                let headers: Headers = record.headers.map(own).collect();
                let meta = Meta {
                    topic: &fetched.partition.topic,
                    partition: fetched.partition.partition,
                    offset: record.offset,
                    timestamp: record.timestamp,
                    headers: &headers,
                };
                let Err(dropped) = table.apply(&meta, record.key, record.value) else { continue };
                if let Err(source) = self.dropped.count(dropped)
                    && !self.topology.skips_undecodable(*index, self.skip_undecodable)
                {
                    let (table, offset) = (Arc::clone(name), record.offset);
                    return Err(StartError::GlobalTable { table, offset, source });
                }
            }
        }
        Ok(())
    }

    /// Follows the topics until the application closes. A record that cannot be applied, and may not be skipped, makes
    /// the application fail: a table that misses one answers wrongly.
    pub(super) async fn follow(mut self, shared: Arc<Shared>) {
        let mut closing = shared.closing.subscribe();
        loop {
            shared.status.lock().globals = self.dropped;
            let polled = tokio::select! {
                _ = closing.wait_for(|closing| *closing) => break,
                polled = self.consumer.poll(POLL) => polled,
            };
            match polled {
                Ok(batches) => {
                    if let Err(error) = self.apply(batches) {
                        shared.fail(AppError::Global(Arc::new(error)));
                    }
                }
                Err(error) if error.is_retriable() => {
                    tracing::warn!(%error, "global tables are not followed at the moment; trying again");
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => shared.fail(AppError::Consume(error)),
            }
        }
        if let Err(error) = self.consumer.close().await {
            tracing::debug!(%error, "closing the reader of global tables");
        }
    }
}
