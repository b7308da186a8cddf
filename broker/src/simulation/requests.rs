//! What clients do by themselves: each picks a topic that there is, and tells the model before it asks.

use super::clients::{self, Asked, Part};
use super::model::{Kind, Wrong};
use super::random::Random;
use super::world::{GROUPS, IN_FLIGHT_MAX, START_MS, Stream, World, pick};
use bytes::Bytes;
use kappa_protocol::messages::InitProducerIdRequest;
use kappa_protocol::record::ProducerStamp;
use std::collections::VecDeque;

impl World {
    pub(super) fn create(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let name = clients::name(random.below(3));
        let kind = Kind { is_commit: !random.one_in(4), is_retained: random.one_in(5) };
        let request = clients::create(&name, kind, 1 + random.below(2) as i32);
        self.ask(7, request, Asked::Create { name, kind })
    }

    pub(super) fn delete(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let Some((topic, _)) = pick(&self.node(), random) else { return Ok(()) };
        self.adopt(&topic)?;
        self.model.deleting(topic.id);
        self.ask(6, clients::delete(topic.id), Asked::Delete { id: topic.id })
    }

    pub(super) fn add_partitions(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let Some((topic, _)) = pick(&self.node(), random) else { return Ok(()) };
        let count = topic.partitions().len() as i32 + 1;
        if count > 4 {
            return Ok(());
        }
        self.ask(3, clients::add_partitions(&topic.name, count), Asked::AddPartitions { id: topic.id, count })
    }

    pub(super) fn alter(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let Some((topic, _)) = pick(&self.node(), random) else { return Ok(()) };
        self.adopt(&topic)?;
        let limit = 10_000 + (self.model.token() & 0xffff) as i64;
        self.model.altering(&topic.name, limit);
        self.ask(1, clients::alter(&topic.name, limit), Asked::Alter { id: topic.id, limit })
    }

    pub(super) fn produce(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let node = self.node();
        let mut parts: Vec<Part> = Vec::new();
        for _ in 0..=random.below(3) {
            let Some((topic, index)) = pick(&node, random) else { break };
            if parts.iter().any(|part| (part.topic, part.index) == (topic.id, index)) {
                continue;
            }
            let tokens: Vec<u64> = (0..=random.below(3)).map(|_| self.model.token()).collect();
            self.adopt(&topic)?;
            self.model.sent_in_order(topic.id, index, &tokens);
            let bytes = clients::batch(self.clock.now_ms(), &tokens, None);
            parts.push(Part { topic: topic.id, index, tokens, stream: None, bytes });
        }
        if parts.is_empty() {
            return self.create(random);
        }
        let acks = [-1, -1, -1, 1, 0][random.below(5) as usize];
        self.ask(
            13,
            clients::produce(acks, &parts),
            Asked::Produce { acks, parts, losses: self.model.losses },
        )
    }

    pub(super) fn produce_idempotently(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let Some((topic, index)) = pick(&self.node(), random) else { return Ok(()) };
        let Some(producer_id) = self.producer_ids.last().copied().filter(|_| !random.one_in(20)) else {
            return self.ask(
                4,
                InitProducerIdRequest { producer_id: -1, producer_epoch: -1, ..Default::default() },
                Asked::ProducerId,
            );
        };
        self.adopt(&topic)?;
        let is_it = |stream: &Stream| {
            (stream.topic, stream.index, stream.producer_id) == (topic.id, index, producer_id)
        };
        let which = match self.streams.iter().position(is_it) {
            Some(which) => which,
            None => {
                self.streams.push(Stream {
                    producer_id,
                    topic: topic.id,
                    index,
                    next_sequence: 0,
                    unacknowledged: VecDeque::new(),
                });
                self.streams.len() - 1
            }
        };
        let tokens: Vec<u64> = (0..=random.below(3)).map(|_| self.model.token()).collect();
        let stream = &mut self.streams[which];
        let all_sent = stream.unacknowledged.iter().all(|(.., is_sent)| *is_sent);
        if all_sent && stream.unacknowledged.len() < IN_FLIGHT_MAX {
            let stamp = ProducerStamp { id: producer_id, epoch: 0, sequence: stream.next_sequence };
            stream.next_sequence += tokens.len() as i32;
            let bytes = clients::batch(self.clock.now_ms(), &tokens, Some(stamp));
            stream.unacknowledged.push_back((tokens, bytes, false));
        }
        // A client that waited too long for answers sends everything again.
        let sends_all = random.one_in(6);
        let unsent: Vec<(Vec<u64>, Bytes)> = stream
            .unacknowledged
            .iter_mut()
            .filter(|(.., is_sent)| sends_all || !*is_sent)
            .map(|(tokens, bytes, is_sent)| {
                *is_sent = true;
                (tokens.clone(), bytes.clone())
            })
            .collect();
        for (tokens, bytes) in unsent {
            self.model.sent(topic.id, index, &tokens);
            let parts = vec![Part { topic: topic.id, index, tokens, stream: Some(which), bytes }];
            self.ask(
                13,
                clients::produce(-1, &parts),
                Asked::Produce { acks: -1, parts, losses: self.model.losses },
            )?;
        }
        Ok(())
    }

    pub(super) fn delete_records(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let Some((topic, index)) = pick(&self.node(), random) else { return Ok(()) };
        let Some(partition) = topic.partition(index) else { return Ok(()) };
        self.adopt(&topic)?;
        let before = random.below(partition.offsets().high_watermark as u64 + 1) as i64;
        self.model.deleting_records(topic.id, &topic.name, index, before);
        let asked = Asked::DeleteRecords { id: topic.id, index, before };
        self.ask(2, clients::delete_records(&topic.name, index, before), asked)
    }

    pub(super) fn fetch(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let Some((topic, index)) = pick(&self.node(), random) else { return Ok(()) };
        let Some(partition) = topic.partition(index) else { return Ok(()) };
        self.adopt(&topic)?;
        let offsets = partition.offsets();
        let span = (offsets.high_watermark - offsets.log_start).max(0) as u64;
        let (from, wait_ms) = match random.below(3) {
            0 => (offsets.high_watermark, 500),
            _ => (offsets.log_start + random.below(span + 1) as i64, 0),
        };
        self.ask(
            18,
            clients::fetch(topic.id, index, from, wait_ms),
            Asked::Fetch { id: topic.id, index, from },
        )
    }

    pub(super) fn list_offsets(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let Some((topic, index)) = pick(&self.node(), random) else { return Ok(()) };
        let timestamp = [-1, -2, -3, START_MS][random.below(4) as usize];
        self.ask(9, clients::list_offsets(&topic.name, index, timestamp), Asked::Other)
    }

    pub(super) fn commit(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let Some((topic, index)) = pick(&self.node(), random) else { return Ok(()) };
        self.adopt(&topic)?;
        let group = GROUPS[random.below(2) as usize].to_owned();
        let offset = self.model.token() as i64;
        let (name, member) = (topic.name.to_string(), self.members.get(&group).cloned());
        self.model.committing((group.clone(), name.clone(), index), topic.id, offset);
        let request = clients::commit(&group, member.as_ref(), topic.id, index, offset);
        self.ask(10, request, Asked::Commit { group, name, index, offset })
    }

    pub(super) fn member(&mut self, random: &mut Random) -> Result<(), Wrong> {
        let group = GROUPS[random.below(2) as usize].to_owned();
        match self.members.remove(&group) {
            Some((member_id, _)) if random.one_in(2) => {
                self.ask(5, clients::leave(&group, &member_id), Asked::Other)
            }
            Some((member_id, _)) => self.ask(9, clients::join(&group, &member_id), Asked::Join { group }),
            None => self.ask(9, clients::join(&group, ""), Asked::Join { group }),
        }
    }
}
