//! One command's connection to the cluster, and the translation of its errors into what a person can act on.

use crate::{
    args::Common,
    error::{Exit, Failure},
    output::Output,
};
use kappa_client::{
    Admin, Client, ClientConfig, ConnectError, RequestError, TopicPartition,
    admin::{ItemResults, TopicDescription},
    consumer::ConsumerError,
    producer::{DeliveryError, SendError},
};
use kappa_protocol::ErrorCode;
use std::collections::BTreeMap;

/// A connected client and how its user wants to see results.
pub(crate) struct Session {
    /// The way to the cluster.
    pub(crate) client: Client,
    /// The same for administration.
    pub(crate) admin: Admin,
    /// How to print.
    pub(crate) output: Output,
}

impl Session {
    /// Connects to the first bootstrap server that answers.
    pub(crate) async fn connect(common: &Common) -> Result<Self, Failure> {
        let config = ClientConfig::default().client_id("kappa-cli");
        let client =
            Client::connect(&common.bootstrap_server, config).await.map_err(|error| match error {
                ConnectError::Unreachable { address, reason } => {
                    Failure::new(Exit::Unreachable, format!("cannot reach {address}: {reason}"))
                        .cure("start a broker with `kappa broker`, or name one with --bootstrap-server")
                }
                error @ (ConnectError::NoAddress | ConnectError::InvalidAddress(_)) => {
                    Failure::new(Exit::Usage, error.to_string())
                }
                error => Failure::new(Exit::Unreachable, error.to_string()),
            })?;
        let admin = Admin::new(&client);
        Ok(Self { client, admin, output: common.output })
    }

    /// A topic, which must exist.
    pub(crate) async fn topic(&self, name: &str) -> Result<TopicDescription, Failure> {
        let mut found =
            self.admin.describe_topics(&[name]).await.map_err(|error| refused("describe topics", &error))?;
        match found.remove(name) {
            Some(Ok(topic)) => Ok(topic),
            Some(Err(error)) => Err(topic_error(&format!("describe topic '{name}'"), name, &error)),
            None => Err(Failure::no_topic(name)),
        }
    }

    /// The partitions of a topic, which must exist; only those `wanted`, if any are named.
    pub(crate) async fn partitions(
        &self,
        topic: &str,
        wanted: &[i32],
    ) -> Result<Vec<TopicPartition>, Failure> {
        let count = self.topic(topic).await?.partitions.len();
        if let Some(unknown) =
            wanted.iter().find(|index| usize::try_from(**index).is_ok_and(|index| index >= count))
        {
            return Err(Failure::new(
                Exit::NotFound,
                format!("topic '{topic}' has no partition {unknown}: it has {count}, numbered from 0"),
            ));
        }
        let chosen = (0..).take(count).filter(|index| wanted.is_empty() || wanted.contains(index));
        Ok(chosen.map(|index| TopicPartition::new(topic, index)).collect())
    }
}

/// A call that failed as a whole.
pub(crate) fn refused(doing: &str, error: &RequestError) -> Failure {
    match error {
        RequestError::Connect(error) => Failure::new(Exit::Unreachable, format!("cannot {doing}: {error}")),
        error => Failure::failed(format!("cannot {doing}: {error}")),
    }
}

/// A call about one topic that failed.
pub(crate) fn topic_error(doing: &str, topic: &str, error: &RequestError) -> Failure {
    match error.code() {
        Some(ErrorCode::UnknownTopicOrPartition) => Failure::no_topic(topic),
        _ => refused(doing, error),
    }
}

/// A consumer's call that failed.
pub(crate) fn consumer_error(doing: &str, error: &ConsumerError) -> Failure {
    match error {
        ConsumerError::Request(error) => refused(doing, error),
        ConsumerError::Corrupt { partition, offset, reason } => {
            let what = format!("cannot {doing}: {partition} is damaged at offset {offset}: {reason}");
            Failure::new(Exit::Unsound, what).cure(
                "`kappa log verify DATA_DIR` says what is damaged, `kappa log repair DATA_DIR` makes a copy without it",
            )
        }
        error => Failure::failed(format!("cannot {doing}: {error}")),
    }
}

/// A record that could not be handed to the producer.
pub(crate) fn send_error(topic: &str, error: &SendError) -> Failure {
    match error {
        SendError::Metadata { reason, .. } => topic_error("produce", topic, reason),
        error => Failure::failed(format!("cannot produce: {error}")),
    }
}

/// A record that was not delivered.
pub(crate) fn delivery_error(topic: &str, error: &DeliveryError) -> Failure {
    match error {
        DeliveryError::Request { reason, .. } => topic_error("produce", topic, reason),
        error => Failure::failed(format!("cannot produce: {error}")),
    }
}

/// All results of a call, or the first failure among them.
pub(crate) fn all<K: Ord, T>(
    results: ItemResults<K, T>,
    failure: impl Fn(&K, &RequestError) -> Failure,
) -> Result<BTreeMap<K, T>, Failure> {
    results
        .into_iter()
        .map(|(key, result)| match result {
            Ok(value) => Ok((key, value)),
            Err(error) => Err(failure(&key, &error)),
        })
        .collect()
}
