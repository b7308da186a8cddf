//! Topics that change under a running application: it stops and says why, rather than miss records in silence.
//!
//! An application lays its tasks over the partitions that its topics have when it starts, and its offsets belong to those
//! very topics. One that has been deleted, or made again under its name, or has grown, is no longer what it counts on.

use super::{AppError, shared::Shared};
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

/// A topic that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    id: [u8; 16],
    /// Its number of partitions.
    pub(super) partitions: i32,
}

impl Known {
    #[cfg(test)]
    pub(super) fn new(id: [u8; 16], partitions: i32) -> Known {
        Known { id, partitions }
    }

    /// Its id as text; a broker that has none gives none.
    pub(super) fn id(&self) -> Option<String> {
        let text = || self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        (self.id != [0; 16]).then(text)
    }
}

/// Topics as they were at one look; those that are not there are left out.
pub(super) type Look = BTreeMap<String, Known>;

/// Looks at topics.
pub(super) async fn look<T: AsRef<str>>(client: &Client, topics: &[T]) -> Result<Look, RequestError> {
    let mut there = Look::new();
    for (name, described) in Admin::new(client).describe_topics(topics).await? {
        match described {
            Ok(topic) => {
                let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
                there.insert(name, Known { id: topic.id.into_bytes(), partitions });
            }
            Err(error) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(there)
}

fn change(before: Known, now: Option<Known>) -> Option<TopicChange> {
    let Some(now) = now else { return Some(TopicChange::Deleted) };
    let count = |known: Known| usize::try_from(known.partitions).unwrap_or(0);
    if before.id != now.id {
        return Some(TopicChange::CreatedAgain);
    }
    (now.partitions > before.partitions).then(|| TopicChange::Grown { from: count(before), to: count(now) })
}

/// What has become of a topic that the application counts on, if anything.
pub(super) async fn changed(shared: &Shared, topic: &str) -> Result<Option<TopicChange>, RequestError> {
    let now = look(&shared.client, &[topic]).await?;
    Ok(shared.counted_on.get(topic).and_then(|before| change(*before, now.get(topic).copied())))
}

/// Looks now and then until the application closes; what is seen twice makes the application fail.
pub(super) async fn follow(shared: Arc<Shared>) {
    let topics: Vec<&String> = shared.counted_on.keys().collect();
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
        let changed = shared.counted_on.iter().find_map(|(topic, before)| {
            let change = change(*before, now.get(topic).copied())?;
            Some((topic.clone(), change))
        });
        if changed.is_some() && changed == seen {
            let Some((topic, change)) = changed else { continue };
            return shared.fail(AppError::TopicChanged { topic, change });
        }
        // A broker that has just begun may not know all of its topics yet.
        seen = changed;
    }
}
