//! Everything that the broker shows, held against the model.

use super::clients::{self, context};
use super::model::{Observed, Wrong, short};
use super::world::{World, topics_of};
use crate::dispatch;
use crate::group::GroupCoordinator;
use crate::handler::Node;
use crate::partition::{IsolationLevel, ReadRequest};
use crate::topic::Topic;
use kappa_protocol::{Reply, Response};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

impl World {
    /// Everything that the broker shows against everything that it should.
    pub(super) fn check_all(&mut self) -> Result<(), Wrong> {
        self.drain_interrupts()?;
        let node = self.node();
        for (id, name, partitions, is_certain) in self.model.topics() {
            match node.topics.by_id(id) {
                None if is_certain => return Err(format!("topic {} of id {id} is gone", short(&name))),
                None => self.model.deleted(id),
                Some(topic) if (topic.partitions().len() as i32) < partitions => {
                    return Err(format!(
                        "topic {} has {} of {partitions} partitions",
                        short(&name),
                        topic.partitions().len()
                    ));
                }
                Some(topic) => {
                    let limit = topic.overrides().get("max.message.bytes").map(|text| text.parse().unwrap());
                    self.model.check_limit(id, limit)?;
                }
            }
        }
        for topic in topics_of(&node) {
            self.adopt(&topic)?;
            for index in 0..topic.partitions().len() as i32 {
                self.check_partition(&topic, index)?;
            }
        }
        self.check_commits(&node)?;
        let life = self.life.as_ref().unwrap();
        let (kept, fresh) = life.catalog.dumps();
        if kept != fresh {
            return Err(format!("the catalog is\n{kept}and replayed\n{fresh}"));
        }
        let groups =
            GroupCoordinator::open(node.topics.clone(), node.settings.group.clone(), self.clock.clone());
        let fresh = groups.map_err(|error| error.to_string())?.dump().map_err(|error| error.to_string())?;
        let kept = node.groups.dump().map_err(|error| error.to_string())?;
        if node.groups.is_ready() && kept != fresh {
            return Err(format!("the groups are\n{kept}and replayed\n{fresh}"));
        }
        Ok(())
    }

    /// Takes note of what consumers could see by now.
    pub(super) fn look(&mut self) -> Result<(), Wrong> {
        for topic in topics_of(&self.node()) {
            self.adopt(&topic)?;
            for (index, partition) in (0..).zip(topic.partitions().iter()) {
                let (epoch, high_watermark) = (partition.leader_epoch(), partition.offsets().high_watermark);
                self.note(|| {
                    format!("{}-{index} up to {high_watermark} in epoch {epoch}", short(&topic.name))
                });
                self.model.seen(topic.id, index, high_watermark, epoch);
            }
        }
        Ok(())
    }

    pub(super) fn check_partition(&mut self, topic: &Topic, index: i32) -> Result<(), Wrong> {
        let Some(partition) = topic.partition(index) else { return Ok(()) };
        let offsets = partition.offsets();
        let (mut from, mut records) = (offsets.log_start, Vec::new());
        while from < offsets.high_watermark {
            let request = ReadRequest {
                offset: from,
                max_bytes: 1 << 20,
                at_least_one: true,
                isolation: IsolationLevel::ReadUncommitted,
            };
            let read = partition.read(request).map_err(|error| error.to_string());
            let found = read.and_then(|read| clients::records(&read.records));
            // No checksum covers the offset of a batch: a flipped one may lead back.
            let found = found.and_then(|found| match found.last() {
                Some(last) if last.offset < from => {
                    Err(format!("records from {from} on end at {}", last.offset))
                }
                _ => Ok(found),
            });
            if found.is_err()
                && self.spoiled.as_ref().is_some_and(|of| *of == format!("{}-{index}", topic.name))
            {
                // A damaged batch is refused here or by the client.
                return Ok(());
            }
            let found = found.map_err(|wrong| format!("{}-{index}: {wrong}", short(&topic.name)))?;
            let Some(last) = found.last() else { break };
            from = last.offset + 1;
            records.extend(found);
        }
        let observed = Observed {
            from: offsets.log_start,
            is_late: false,
            log_start: offsets.log_start,
            high_watermark: offsets.high_watermark,
            epoch: partition.leader_epoch(),
            records,
        };
        self.model.check_log(topic.id, index, &observed)
    }

    /// The answer to what was asked last, whose job is carried out first if there is one.
    fn answer_now(&self, reply: Reply) -> Result<Response, Wrong> {
        let mut reply = match reply {
            Reply::Now(response) => return Ok(response),
            Reply::Later(reply) => reply,
            Reply::None => return Err("nothing is answered".into()),
        };
        let job = self.life.as_ref().and_then(|life| life.jobs.lock().pop());
        job.into_iter().for_each(|job| job());
        match reply.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(Ok(response)) => Ok(response),
            Poll::Ready(Err(error)) => Err(error.to_string()),
            Poll::Pending => Err("an answer waits for more than its job".into()),
        }
    }

    pub(super) fn check_commits(&mut self, node: &Arc<Node>) -> Result<(), Wrong> {
        for key in self.model.commit_keys() {
            let (group, name, index) = &key;
            let Some(topic) = node.topics.topic(name) else { continue };
            let request = clients::fetch_offset(group, name, *index);
            let reply = dispatch::call(node, &context(9), request.into());
            let Response::OffsetFetch(response) = self.answer_now(reply)? else {
                return Err("a fetch of offsets is answered by something else".into());
            };
            let found = &response.groups[0];
            let offset = match found.error_code {
                0 => found.topics[0].partitions[0].committed_offset,
                _ => -1,
            };
            self.model.check_commit(&key, topic.id, offset)?;
        }
        Ok(())
    }
}
