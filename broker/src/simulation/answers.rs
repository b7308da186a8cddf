//! What clients learn, for the model, and what they do next.

use super::clients::{self, Asked, Part};
use super::model::{Observed, Wrong};
use super::world::World;
use kappa_protocol::messages::JoinGroupResponse;
use kappa_protocol::{ErrorCode, LaneError, Response};
use uuid::Uuid;

impl World {
    pub(super) fn answered(
        &mut self,
        asked: Asked,
        answer: Result<Response, LaneError>,
    ) -> Result<(), Wrong> {
        self.note(|| format!("{asked:?}"));
        self.note(|| format!("{answer:?}").replace(&"l".repeat(140), "l…").chars().take(500).collect());
        let Ok(response) = answer else { return Ok(()) };
        match (asked, response) {
            (Asked::Create { name, kind }, Response::CreateTopics(response)) => {
                let topic = &response.topics[0];
                match topic.error_code {
                    0 => self.model.created(topic.topic_id, &name, kind, topic.num_partitions),
                    _ => Ok(()),
                }
            }
            (Asked::Delete { id }, Response::DeleteTopics(response)) => {
                match ErrorCode::from(response.responses[0].error_code) {
                    ErrorCode::None | ErrorCode::UnknownTopicId => self.model.deleted(id),
                    // It may have reached the disk all the same.
                    ErrorCode::KafkaStorageError => {}
                    _ => self.model.not_deleted(id),
                }
                Ok(())
            }
            (Asked::AddPartitions { id, count }, Response::CreatePartitions(response)) => {
                let (name, kind) = (response.results[0].name.clone(), self.model.kind(id));
                match kind {
                    Some(kind) if response.results[0].error_code == 0 && self.is_named(id, &name) => {
                        self.model.created(id, &name, kind, count)
                    }
                    _ => Ok(()),
                }
            }
            (Asked::Alter { id, limit }, Response::IncrementalAlterConfigs(response)) => {
                let name = response.responses[0].resource_name.clone();
                if response.responses[0].error_code == 0 && self.is_named(id, &name) {
                    self.model.altered(id, limit);
                }
                Ok(())
            }
            (Asked::Produce { acks, parts, losses }, Response::Produce(response)) => {
                for (part, topic) in parts.into_iter().zip(response.responses) {
                    let answer = &topic.partition_responses[0];
                    self.produced((acks, losses), part, answer.error_code, answer.base_offset)?;
                }
                Ok(())
            }
            (Asked::DeleteRecords { id, index, before }, Response::DeleteRecords(response)) => {
                let (name, result) = (&response.topics[0].name, &response.topics[0].partitions[0]);
                let now = self.node().topics.topic(name);
                if let Some(topic) = &now {
                    self.adopt(topic)?;
                }
                self.model.settle_deletion(name, index, before);
                if result.error_code == 0 && now.is_some_and(|topic| topic.id == id) {
                    self.model.deleted_records(id, index, result.low_watermark);
                }
                Ok(())
            }
            (Asked::Fetch { id, index, from }, Response::Fetch(response)) => {
                let data = &response.responses[0].partitions[0];
                let partition = self.node().topics.by_id(id).and_then(|topic| topic.partition(index));
                let Some(partition) = partition.filter(|_| data.error_code == 0 && !self.armed) else {
                    return Ok(());
                };
                let bytes = data.records.as_ref().map(kappa_protocol::Records::to_bytes).unwrap_or_default();
                let observed = Observed {
                    from,
                    is_late: true,
                    log_start: data.log_start_offset,
                    high_watermark: data.high_watermark,
                    epoch: partition.leader_epoch(),
                    records: clients::records(&bytes)?,
                };
                self.model.check_log(id, index, &observed)
            }
            (Asked::Commit { group, name, index, offset }, Response::OffsetCommit(response)) => {
                if response.topics[0].partitions[0].error_code == 0 {
                    self.model.committed(&(group, name, index), offset);
                }
                Ok(())
            }
            (Asked::ProducerId, Response::InitProducerId(response)) if response.error_code == 0 => {
                self.producer_ids.push(response.producer_id);
                self.model.producer_id(response.producer_id)
            }
            (Asked::Join { group }, Response::JoinGroup(response)) => self.joined(group, &response),
            (Asked::Sync { group }, Response::SyncGroup(response)) if response.error_code != 0 => {
                self.members.remove(&group);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether the topic of this id still has its name: an answer by name may be of its successor.
    pub(super) fn is_named(&self, id: Uuid, name: &str) -> bool {
        self.node().topics.topic(name).is_some_and(|topic| topic.id == id)
    }

    pub(super) fn produced(
        &mut self,
        (acks, losses): (i16, u64),
        part: Part,
        error_code: i16,
        base_offset: i64,
    ) -> Result<(), Wrong> {
        let Part { topic, index, tokens, stream, .. } = part;
        if let Some(stream) = stream.map(|which| &mut self.streams[which]) {
            match error_code {
                0 => stream.unacknowledged.retain(|(own, ..)| *own != tokens),
                _ => {
                    let of_this = stream.unacknowledged.iter_mut().filter(|(own, ..)| *own == tokens);
                    of_this.for_each(|(.., is_sent)| *is_sent = false);
                }
            }
        }
        let Some(kind) = self.model.kind(topic).filter(|_| error_code == 0) else { return Ok(()) };
        // Nobody waits for the sync of these, and it may have failed since.
        let is_whole = losses == self.model.losses && !self.faulty && !self.armed;
        let is_kept = if kind.is_commit { acks == -1 } else { is_whole };
        if is_kept { self.model.promise(topic, index, base_offset, &tokens) } else { Ok(()) }
    }

    pub(super) fn joined(&mut self, group: String, response: &JoinGroupResponse) -> Result<(), Wrong> {
        match ErrorCode::from(response.error_code) {
            ErrorCode::MemberIdRequired => {
                let request = clients::join(&group, &response.member_id);
                self.ask(9, request, Asked::Join { group })
            }
            ErrorCode::None => {
                self.members.insert(group.clone(), (response.member_id.clone(), response.generation_id));
                self.ask(5, clients::sync(&group, response), Asked::Sync { group })
            }
            _ => Ok(()),
        }
    }
}
