//! What becomes of a record that cannot be decoded, or that an operator fails for.
//!
//! A dead letter is the record that was being processed, as it was read: whoever mends the cause can feed it in again.
//! The names of its headers are those of Kafka Streams (KIP-1034), all values text; there is no stack trace, and
//! `__streams.errors.operator` is ours.

use super::TopicId;
use crate::record::{Header, Headers, Meta};
use bytes::Bytes;
use std::sync::Arc;

/// What happens to a record that a source cannot decode or that a fallible operator such as
/// [`Stream::try_map_values`](crate::Stream::try_map_values) fails for.
///
/// It is said for a source ([`Source::on_failure`](crate::Source::on_failure)), for the operators behind a stream
/// ([`Stream::on_failure`](crate::Stream::on_failure)) or for a whole topology
/// ([`Builder::on_failure`](crate::Builder::on_failure)); what is said closest to the operator holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// The application stops with an error that names operator, topic, partition and offset, and commits nothing behind
    /// the record. The default.
    #[default]
    Stop,
    /// What failed is left out and counted ([`Counters::failed`](crate::Counters::failed),
    /// [`Counters::undecodable`](crate::Counters::undecodable)).
    Skip,
    /// As [`OnFailure::Skip`], and the record that was being processed is written to this topic as it was read, with
    /// headers that say why: `__streams.errors.exception`, `.message`, `.topic`, `.partition`, `.offset` and
    /// `.operator`. Behind a repartition topic that is the record of the repartition topic. A record for which several
    /// things fail is written for each.
    DeadLetter(String),
}

impl OnFailure {
    /// Writes records that fail to a topic, see [`OnFailure::DeadLetter`].
    pub fn dead_letter(topic: &str) -> OnFailure {
        OnFailure::DeadLetter(topic.to_owned())
    }
}

/// [`OnFailure`], once the dead-letter topic is part of a topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailurePolicy {
    Stop,
    Skip,
    DeadLetter(TopicId),
}

/// Something that may fail for a record.
#[derive(Debug, Clone)]
pub(crate) struct Fallible {
    pub(crate) operator: Arc<str>,
    /// `None` where nothing was said: a task stops, unless it was configured to skip.
    pub(crate) policy: Option<FailurePolicy>,
}

/// A record that is to be written to a dead-letter topic once it is processed, and why.
#[derive(Debug)]
pub(super) struct DeadLetter {
    pub(super) topic: TopicId,
    pub(super) operator: Arc<str>,
    /// Type of the error.
    pub(super) exception: &'static str,
    pub(super) message: String,
}

impl DeadLetter {
    /// The headers of the record, and behind them what went wrong.
    pub(super) fn headers(self, record: &Meta<'_>) -> Headers {
        let text = |name: &str, value: String| Header {
            key: Arc::from(format!("__streams.errors.{name}")),
            value: Some(Bytes::from(value)),
        };
        let reasons = [
            text("exception", self.exception.to_owned()),
            text("message", self.message),
            text("topic", record.topic.to_owned()),
            text("partition", record.partition.to_string()),
            text("offset", record.offset.to_string()),
            text("operator", self.operator.to_string()),
        ];
        record.headers.iter().cloned().chain(reasons).collect()
    }
}
