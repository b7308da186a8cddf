//! Topics that change under a running application: it stops and says why, rather than miss records in silence.
//!
//! An application lays its tasks over the partitions that its topics have when it starts, and its offsets belong to those
//! very topics. One that has been deleted, or made again under its name, or has grown, is no longer what it counts on.

use super::{AppError, shared::Shared};
use crate::topology::Topology;
use kappa_client::{Admin, Client, RequestError};
use kappa_protocol::ErrorCode;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// What has become of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicChange {
    /// It is not there any more.
    Deleted,
    /// Another one has its name.
    CreatedAgain,
    /// It has more partitions than when the application started.
    Grown {
        /// Partitions at the start.
        from: usize,
        /// Partitions now.
        to: usize,
    },
}

impl fmt::Display for TopicChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicChange::Deleted => f.write_str("was deleted"),
            TopicChange::CreatedAgain => f.write_str("was deleted and created again"),
            TopicChange::Grown { from, to } => write!(f, "has grown from {from} to {to} partitions"),
        }
    }
}

/// Id and number of partitions of a topic; `None` if it is not there.
type Known = Option<([u8; 16], usize)>;

/// The topics that an application counts on, as they were when it started.
#[derive(Debug)]
pub(super) struct Watch(BTreeMap<String, Known>);

async fn look<T: AsRef<str>>(client: &Client, topics: &[T]) -> Result<BTreeMap<String, Known>, RequestError> {
    let mut known = BTreeMap::new();
    for (name, described) in Admin::new(client).describe_topics(topics).await? {
        match described {
            Ok(topic) => known.insert(name, Some((topic.id.into_bytes(), topic.partitions.len()))),
            Err(error) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => {
                known.insert(name, None)
            }
            Err(error) => return Err(error),
        };
    }
    Ok(known)
}

/// Ids of the sources of a topology, as text; a broker that has none gives none.
pub(super) async fn source_ids(
    topology: &Topology,
    client: &Client,
) -> Result<BTreeMap<String, String>, RequestError> {
    let known = look(client, &topology.source_topics()).await?;
    let id = |id: [u8; 16]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let known = known.into_iter().filter_map(|(topic, known)| Some((topic, known?.0)));
    Ok(known.filter(|(_, bytes)| *bytes != [0; 16]).map(|(topic, bytes)| (topic, id(bytes))).collect())
}

fn change(before: Known, now: Known) -> Option<TopicChange> {
    match (before?, now) {
        (_, None) => Some(TopicChange::Deleted),
        ((was, _), Some((is, _))) if was != is => Some(TopicChange::CreatedAgain),
        ((_, from), Some((_, to))) if to > from => Some(TopicChange::Grown { from, to }),
        _ => None,
    }
}

impl Watch {
    /// Notes what the inputs and internal topics of a topology are.
    pub(super) async fn begin(
        topology: &Topology,
        client: &Client,
        internal: &[String],
    ) -> Result<Watch, RequestError> {
        let topics: Vec<&str> =
            topology.input_topics().into_iter().chain(internal.iter().map(String::as_str)).collect();
        Ok(Watch(look(client, &topics).await?))
    }

    /// Looks now and then until the application closes; what it sees twice makes the application fail.
    pub(super) async fn follow(self, shared: Arc<Shared>) {
        let topics: Vec<&String> = self.0.keys().collect();
        let mut closing = shared.closing.subscribe();
        let mut seen: Option<(String, TopicChange)> = None;
        loop {
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = match look(&shared.client, &topics).await {
                Ok(now) => now,
                Err(error) => {
                    tracing::debug!(%error, "topics cannot be looked at; trying again");
                    continue;
                }
            };
            let changed = now.into_iter().find_map(|(topic, now)| {
                let change = change(self.0.get(&topic).copied().flatten(), now)?;
                Some((topic, change))
            });
            if changed.is_some() && changed == seen {
                let Some((topic, change)) = changed else { continue };
                return shared.fail(AppError::TopicChanged { topic, change });
            }
            // A broker that has just begun may not know all of its topics yet.
            seen = changed;
        }
    }
}
