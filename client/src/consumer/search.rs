//! The topics whose leaders are being looked for: when to ask for each again, and what is said of it, once.
//!
//! Knows nothing of requests or partitions; who asks tells it what came of that.

use crate::{RequestError, routing::backoff::Backoff};
use kappa_protocol::ErrorCode;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::time::Instant;

/// Paces the questions: however often the fetching tasks are woken, a topic that was not found is asked for again only
/// when it is due.
#[derive(Debug)]
pub(super) struct Search {
    backoff: Backoff,
    missing: HashMap<Arc<str>, Missing>,
    /// Whether the last question was not answered.
    is_cut_off: bool,
}

#[derive(Debug)]
struct Missing {
    due: Instant,
    is_told: bool,
}

impl Search {
    pub(super) fn new(backoff: Backoff) -> Search {
        Search { backoff, missing: HashMap::new(), is_cut_off: false }
    }

    /// Forgets the topics that are not wanted any more.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&Arc<str>) -> bool) {
        self.missing.retain(|topic, _| is_wanted(topic));
    }

    /// Whether the topic may be asked for now.
    pub(super) fn is_due(&self, topic: &Arc<str>) -> bool {
        self.missing.get(topic).is_none_or(|missing| missing.due <= Instant::now())
    }

    /// When the next topic is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.missing.values().map(|missing| missing.due).min()
    }

    /// The topic has all of its leaders, whoever has asked for it.
    pub(super) fn found(&mut self, topic: &Arc<str>) {
        if self.missing.remove(topic).is_some_and(|missing| missing.is_told) {
            tracing::warn!(topic = &**topic, "the topic is there again");
        }
    }

    /// Nobody answered the question for these topics.
    pub(super) fn unanswered(&mut self, topics: &[Arc<str>], error: &RequestError) {
        // A client that was closed asks nobody.
        if error.is_retriable() && !std::mem::replace(&mut self.is_cut_off, true) {
            tracing::warn!(%error, "no broker answers; trying again until one does");
        }
        let due = Instant::now() + self.backoff.next();
        for topic in topics {
            self.missing.entry(topic.clone()).or_insert(Missing { due, is_told: false }).due = due;
        }
    }

    /// The question was answered: `missing` are the topics without all of their leaders, and why; the others have them.
    pub(super) fn answered(&mut self, asked: &[Arc<str>], missing: &[(Arc<str>, ErrorCode)]) {
        if std::mem::take(&mut self.is_cut_off) {
            tracing::warn!("a broker answers again");
        }
        let names: HashSet<_> = missing.iter().map(|(name, _)| name).collect();
        asked.iter().filter(|topic| !names.contains(topic)).for_each(|topic| self.found(topic));
        if missing.is_empty() {
            if self.missing.is_empty() {
                self.backoff.reset();
            }
            return;
        }
        let due = Instant::now() + self.backoff.next();
        for (topic, code) in missing {
            let Some(before) = self.missing.get_mut(topic) else {
                // It may be in the making.
                self.missing.insert(topic.clone(), Missing { due, is_told: false });
                continue;
            };
            before.due = due;
            let is_unknown = matches!(code, ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId);
            if is_unknown && !std::mem::replace(&mut before.is_told, true) {
                tracing::warn!(topic = &**topic, "the topic does not exist; waiting until it does");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kappa_protocol::ApiKey;
    use std::time::Duration;

    fn search() -> (Search, Arc<str>, Arc<str>) {
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        (Search::new(backoff), Arc::from("a"), Arc::from("b"))
    }

    #[tokio::test]
    async fn missing_topic_is_asked_for_again_when_it_is_due_and_holds_no_other_up() {
        let (mut search, a, b) = search();
        assert!(search.is_due(&a));
        search.answered(std::slice::from_ref(&a), &[(a.clone(), ErrorCode::UnknownTopicOrPartition)]);
        assert!(!search.is_due(&a) && search.is_due(&b));
        tokio::time::sleep_until(search.next().unwrap()).await;
        assert!(search.is_due(&a));
        search.answered(&[a.clone(), b.clone()], &[]);
        assert!(search.is_due(&a) && search.next().is_none());
    }

    #[tokio::test]
    async fn topic_that_somebody_else_has_found_is_not_waited_for() {
        let (mut search, a, _) = search();
        search.answered(std::slice::from_ref(&a), &[(a.clone(), ErrorCode::LeaderNotAvailable)]);
        search.found(&a);
        assert!(search.is_due(&a) && search.next().is_none());
    }

    #[tokio::test]
    async fn unanswered_question_waits_longer_each_time_until_it_is_answered() {
        let (mut search, a, _) = search();
        let mut waits = Vec::new();
        for _ in 0..3 {
            search.unanswered(std::slice::from_ref(&a), &RequestError::Incomplete { api: ApiKey::Metadata });
            waits.push(search.next().unwrap() - Instant::now());
            tokio::time::sleep_until(search.next().unwrap()).await;
        }
        assert!(waits.is_sorted() && waits[2] > waits[0] * 2, "{waits:?}");
        search.retain(|_| false);
        assert!(search.next().is_none());
    }
}
