//! Global tables: loaded to their present end before anything is processed, then followed.

use super::{StartError, shared::TopicNames};
use crate::topology::{Globals, TopicId, Topology};
use kappa_client::{Client, Consumer, ConsumerConfig, FetchedBatch, OffsetReset, TopicPartition};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;

const POLL: Duration = Duration::from_millis(500);

/// Reads the topics of global tables.
pub(super) struct GlobalReader {
    consumer: Consumer,
    tables: BTreeMap<Arc<str>, (usize, Arc<str>)>,
    globals: Globals,
}

impl GlobalReader {
    /// Loads all global tables up to where their topics end now; `None` if the topology has none.
    pub(super) async fn load(
        topology: &Topology,
        client: &Client,
        (names, counts): (&TopicNames, &[i32]),
        globals: &Globals,
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
        let reader = GlobalReader { consumer, tables, globals: globals.clone() };
        let open = |partition: &TopicPartition| {
            let end = ends.get(partition).copied().unwrap_or(0);
            let at = reader.consumer.position(partition).or_else(|| begins.get(partition).copied());
            at.is_none_or(|at| at < end)
        };
        while partitions.iter().any(open) {
            reader.apply(reader.consumer.poll(POLL).await?)?;
        }
        Ok(Some(reader))
    }

    fn apply(&self, batches: Vec<FetchedBatch>) -> Result<(), StartError> {
        for fetched in batches {
            let Some((index, name)) = self.tables.get(&fetched.partition.topic) else { continue };
            let Some(table) = self.globals.table(*index) else { continue };
            for record in fetched.records().map_while(Result::ok) {
                let Some(key) = record.key else { continue };
                table.apply(key, record.value, record.timestamp).map_err(|source| {
                    StartError::GlobalTable { table: Arc::clone(name), offset: record.offset, source }
                })?;
            }
        }
        Ok(())
    }

    /// Follows the topics until the application closes.
    pub(super) async fn follow(self, mut closing: watch::Receiver<bool>) {
        loop {
            let polled = tokio::select! {
                _ = closing.wait_for(|closing| *closing) => break,
                polled = self.consumer.poll(POLL) => polled,
            };
            let applied = polled.map_err(StartError::from).and_then(|batches| self.apply(batches));
            if let Err(error) = applied {
                tracing::error!(%error, "a global table cannot be followed; it stays as it is");
                tokio::time::sleep(POLL).await;
            }
        }
        if let Err(error) = self.consumer.close().await {
            tracing::debug!(%error, "closing the reader of global tables");
        }
    }
}
