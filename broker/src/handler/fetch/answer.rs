//! What a look at partitions finds, and the answer that it becomes.
//!
//! A look changes nothing, so that it can be begun again where the disk may be waited for. Invariant: a session's client
//! is told of a partition if there are records, an error, or other bounds than it was told before, and of nothing else.

use super::wanted::{Item, TopicKey, Wanted};
use super::{Held, Kind, REGION_BYTES_MIN};
use crate::handler::{Node, read_error_code};
use crate::partition::{IsolationLevel, Located, ReadError, ReadManner, ReadRequest};
use kappa_protocol::messages::FetchResponse;
use kappa_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kappa_protocol::{ErrorCode, Records};
use std::collections::HashMap;
use std::sync::Arc;

/// How partitions are looked at.
pub(super) struct Look<'a> {
    pub(super) wanted: &'a Wanted,
    pub(super) isolation: IsolationLevel,
    /// Bytes of batches at most, but for one batch that is larger.
    pub(super) bytes_max: usize,
    /// Bytes of them that may be in memory; the others are left in their files. `None` if all have to be in memory.
    pub(super) copied_max: Option<usize>,
    pub(super) may_wait: bool,
}

/// What there is to tell.
#[derive(Default)]
pub(super) struct Told {
    partitions: Vec<(u32, Found)>,
    /// Bytes of batches.
    pub(super) bytes: usize,
    /// Whether there is something other than records that must not wait.
    pub(super) failed: bool,
}

enum Found {
    Data(PartitionData),
    Refused(ErrorCode),
}

impl Look<'_> {
    /// Looks at partitions, in order; `None` if the disk would have to be waited for.
    pub(super) fn at(&self, numbers: &[u32]) -> Option<Told> {
        let mut told = Told::default();
        let mut copied = 0;
        for number in numbers {
            let Some(item) = self.wanted.item(*number) else { continue };
            let region_min = match self.copied_max {
                None => usize::MAX,
                Some(copied_max) if copied + REGION_BYTES_MIN <= copied_max => REGION_BYTES_MIN,
                Some(_) => 1,
            };
            let found = self.at_one(item, told.bytes, region_min)?;
            if let Found::Data(data) = &found {
                let records = data.records.as_ref();
                copied += records.map_or(0, |records| records.slices().map(bytes::Bytes::len).sum());
                told.bytes += records.map_or(0, Records::len);
            }
            told.failed |= found.must_not_wait();
            told.partitions.push((*number, found));
        }
        Some(told)
    }

    fn at_one(&self, item: &Item, bytes: usize, region_min: usize) -> Option<Found> {
        let partition = match item.partition() {
            Ok(partition) => partition,
            Err(code) => return Some(Found::Refused(code)),
        };
        let request = ReadRequest {
            offset: item.offset,
            max_bytes: item.bytes_max.min(self.bytes_max.saturating_sub(bytes)),
            // One batch always goes, however large, or a consumer could never pass it.
            at_least_one: bytes == 0,
            isolation: self.isolation,
        };
        let manner = ReadManner { may_wait: self.may_wait, region_min };
        Some(match partition.locate(request, manner).transpose()? {
            Ok(located) => {
                let mut data = data(item, located, self.isolation);
                if let Some(diverging) = item.diverging(&partition) {
                    data.diverging_epoch = diverging;
                    data.records = Some(Records::default());
                }
                Found::Data(data)
            }
            Err(error) => Found::Refused(match error {
                ReadError::Closed => ErrorCode::NotLeaderOrFollower,
                error => read_error_code(&error),
            }),
        })
    }
}

impl Found {
    fn must_not_wait(&self) -> bool {
        match self {
            Self::Data(data) => data.diverging_epoch.epoch >= 0,
            Self::Refused(_) => true,
        }
    }
}

fn data(item: &Item, Located { records, offsets }: Located, isolation: IsolationLevel) -> PartitionData {
    PartitionData {
        partition_index: item.index,
        high_watermark: offsets.high_watermark,
        last_stable_offset: offsets.last_stable,
        log_start_offset: offsets.log_start,
        records: Some(records),
        aborted_transactions: (isolation == IsolationLevel::ReadCommitted).then(Vec::new),
        ..Default::default()
    }
}

fn refused(node: &Node, index: i32, code: ErrorCode) -> PartitionData {
    PartitionData {
        partition_index: index,
        error_code: node.error(code),
        high_watermark: -1,
        records: Some(Records::default()),
        ..Default::default()
    }
}

impl Held {
    /// Tells the client, and remembers what for.
    pub(super) fn answer(&mut self, told: Told, uses_ids: bool) -> FetchResponse {
        let mut responses: Vec<FetchableTopicResponse> = Vec::new();
        let mut places: HashMap<*const TopicKey, usize> = HashMap::new();
        let mut served = Vec::new();
        for (number, found) in told.partitions {
            let Some(item) = self.wanted.item(number) else { continue };
            let (topic, is_news) =
                (item.topic.clone(), self.kind == Kind::Sessionless || is_news(item, &found));
            let data = match found {
                Found::Data(data) => data,
                Found::Refused(code) => {
                    let index = item.index;
                    if code == ErrorCode::NotLeaderOrFollower {
                        self.wanted.lose(number, code);
                    }
                    refused(&self.node, index, code)
                }
            };
            if self.kind != Kind::Sessionless && self.remember(number, &data) {
                match data.records.as_ref().is_some_and(|records| !records.is_empty()) {
                    true => served.push(number),
                    false => self.wanted.queue_again([number]),
                }
            }
            if is_news {
                let place = *places.entry(Arc::as_ptr(&topic)).or_insert_with(|| {
                    let TopicKey { name, id } = &*topic;
                    responses.push(FetchableTopicResponse {
                        topic: name.clone(),
                        topic_id: *id,
                        partitions: Vec::new(),
                    });
                    responses.len() - 1
                });
                if let Some(response) = responses.get_mut(place) {
                    response.partitions.push(data);
                }
            }
        }
        // The next answer begins with those for which this one had no room.
        self.wanted.queue_again(served);
        FetchResponse { session_id: self.session_id(uses_ids), responses, ..Default::default() }
    }

    /// Takes note of what the client is told of a partition; returns whether there is more to tell at once.
    fn remember(&mut self, number: u32, data: &PartitionData) -> bool {
        let is_refused = data.error_code != 0;
        // After an error it has to be told whatever comes.
        let told = (!is_refused).then_some((data.high_watermark, data.log_start_offset));
        self.wanted.tell(number, told);
        let has_more = self.wanted.item(number).is_some_and(|item| item.offset < data.high_watermark);
        let is_more = is_refused || has_more || data.diverging_epoch.epoch >= 0;
        if !is_more {
            self.wanted.rest(number, data.high_watermark);
        }
        is_more
    }

    fn session_id(&mut self, uses_ids: bool) -> i32 {
        match self.kind {
            Kind::Sessionless => 0,
            Kind::Session(id) => id,
            Kind::Opening => {
                let wanted = std::mem::take(&mut self.wanted);
                let now_ms = self.node.topics.env().clock.steady_ms();
                self.node.sessions.open(wanted, uses_ids, now_ms).unwrap_or(0)
            }
        }
    }
}

fn is_news(item: &Item, found: &Found) -> bool {
    match found {
        Found::Refused(_) => true,
        Found::Data(data) => {
            data.records.as_ref().is_some_and(|records| !records.is_empty())
                || data.diverging_epoch.epoch >= 0
                || item.told != Some((data.high_watermark, data.log_start_offset))
        }
    }
}
