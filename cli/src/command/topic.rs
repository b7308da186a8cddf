//! `kappa topic`: create, list, describe, alter, delete, and delete the oldest records.

use crate::{
    error::{Exit, Failure},
    output::{self, Column, Output, Row, grouped},
    place,
    session::{self, Session},
};
use kappa_client::{
    TopicPartition,
    admin::{ConfigChange, ConfigResource, ConfigSource, NewTopic, TopicDescription},
};
use kappa_protocol::ErrorCode;
use serde::Serialize;
use std::collections::BTreeMap;

/// Create, list, describe, alter and delete topics
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TopicCommand {
    /// Create topics
    #[command(after_long_help = CREATE_EXAMPLES)]
    Create(Create),
    /// List topics
    List(List),
    /// Show partitions, offsets and configuration of topics
    Describe(Describe),
    /// Add partitions to a topic or change its configuration
    #[command(after_long_help = ALTER_EXAMPLES)]
    Alter(Alter),
    /// Delete topics and all their records
    Delete(Delete),
    /// Delete the oldest records of a topic
    ///
    /// They cannot be read any more, and consumers that were there go on at the first that is left. Their room on disk is
    /// given back once whole segments are behind that.
    #[command(after_long_help = DELETE_RECORDS_EXAMPLES)]
    DeleteRecords(DeleteRecords),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  kappa topic create flights --partitions 6
  kappa topic create audit --config retention.ms=-1 --config kappa.flush=commit
  kappa topic create a b c --if-not-exists";

const ALTER_EXAMPLES: &str = "\
Examples:
  kappa topic alter flights --partitions 12
  kappa topic alter flights --config retention.ms=86400000 --unset max.message.bytes";

const DELETE_RECORDS_EXAMPLES: &str = "\
Examples:
  kappa topic delete-records flights --before 1000 -p 0
  kappa topic delete-records flights --all         # empty the topic, and keep it";

/// Arguments of `kappa topic create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Names of the topics
    #[arg(value_name = "TOPIC", required = true)]
    topics: Vec<String>,
    /// Number of partitions [default: the broker's num.partitions]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Replicas of each partition [default: the broker's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// Configuration that differs from the broker's defaults
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Succeed if a topic is there already, whatever its partitions and configuration
    #[arg(long)]
    if_not_exists: bool,
}

/// Arguments of `kappa topic list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Show the broker's own topics too
    #[arg(short, long)]
    internal: bool,
}

/// Arguments of `kappa topic describe`.
#[derive(Debug, clap::Args)]
pub(crate) struct Describe {
    /// Names of the topics
    #[arg(value_name = "TOPIC", required = true)]
    topics: Vec<String>,
    /// Show every configuration value, not only those set on the topic
    #[arg(short, long)]
    all_configs: bool,
}

/// Arguments of `kappa topic alter`.
#[derive(Debug, clap::Args)]
pub(crate) struct Alter {
    /// Name of the topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    #[command(flatten)]
    change: Change,
}

/// What is to change: at least one thing.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// New number of partitions; it can only grow, and keys then map to other partitions than before
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Configuration to set
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Configuration to put back to its default
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
}

/// Arguments of `kappa topic delete`.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Names of the topics
    #[arg(value_name = "TOPIC", required = true)]
    topics: Vec<String>,
    /// Succeed if a topic is not there
    #[arg(long)]
    if_exists: bool,
}

/// Arguments of `kappa topic delete-records`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["before", "all"]))]
pub(crate) struct DeleteRecords {
    /// Name of the topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Delete what lies before this offset; it becomes the first
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    before: Option<i64>,
    /// Delete all records that are there now
    #[arg(long)]
    all: bool,
    /// Only in this partition; may be repeated [default: all]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
}

impl TopicCommand {
    /// Runs it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            TopicCommand::Create(command) => command.run(session).await,
            TopicCommand::List(command) => command.run(session).await,
            TopicCommand::Describe(command) => command.run(session).await,
            TopicCommand::Alter(command) => command.run(session).await,
            TopicCommand::Delete(command) => command.run(session).await,
            TopicCommand::DeleteRecords(command) => command.run(session).await,
        }
    }
}

/// `KEY=VALUE` as typed.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[derive(Serialize)]
struct Created {
    topic: String,
    created: bool,
    partitions: Option<i32>,
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let topics: Vec<_> = self.topics.iter().map(|name| self.topic(name)).collect();
        let results = session.admin.create_topics(&topics).await;
        let mut failure = None;
        for (topic, result) in results.map_err(|error| session::refused("create topics", &error))? {
            let created = match result {
                Ok(created) => Created { topic, created: true, partitions: Some(created.partitions) },
                Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) && self.if_not_exists => {
                    Created { topic, created: false, partitions: None }
                }
                Err(error) => {
                    failure.get_or_insert(Self::failure(&topic, &error));
                    continue;
                }
            };
            let text = match created.partitions {
                Some(1) => format!("topic '{}' created with 1 partition", created.topic),
                Some(count) => format!("topic '{}' created with {count} partitions", created.topic),
                None => format!("topic '{}' exists already", created.topic),
            };
            session.output.done(&text, &created)?;
        }
        failure.map_or(Ok(()), Err)
    }

    fn topic(&self, name: &str) -> NewTopic {
        NewTopic {
            name: name.to_owned(),
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs: self.config.iter().cloned().collect(),
        }
    }

    fn failure(topic: &str, error: &kappa_client::RequestError) -> Failure {
        match error.code() {
            Some(ErrorCode::TopicAlreadyExists) => Failure::failed(format!("topic '{topic}' exists already"))
                .cure(format!("look at it with `kappa topic describe {topic}`, or pass --if-not-exists")),
            _ => session::refused(&format!("create topic '{topic}'"), error),
        }
    }
}

#[derive(Serialize)]
struct Listed {
    topic: String,
    partitions: usize,
    internal: bool,
}

impl Row for Listed {
    const COLUMNS: &'static [Column] = &[Column::Text("TOPIC"), Column::Number("PARTITIONS")];

    fn cells(&self) -> Vec<String> {
        vec![self.topic.clone(), self.partitions.to_string()]
    }
}

impl List {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let topics =
            session.admin.list_topics().await.map_err(|error| session::refused("list topics", &error))?;
        let listed = topics.into_iter().filter(|topic| self.internal || !topic.internal).map(|topic| {
            Listed { topic: topic.name, partitions: topic.partitions, internal: topic.internal }
        });
        session
            .output
            .rows(&listed.collect::<Vec<_>>(), "no topics; create one with `kappa topic create NAME`")
    }
}

#[derive(Serialize)]
struct Described {
    topic: String,
    id: String,
    internal: bool,
    partitions: Vec<PartitionRow>,
    configs: BTreeMap<String, Option<String>>,
}

#[derive(Serialize)]
struct PartitionRow {
    partition: i32,
    leader: Option<i32>,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    start_offset: i64,
    end_offset: i64,
}

impl Row for PartitionRow {
    const COLUMNS: &'static [Column] = &[
        Column::Number("PARTITION"),
        Column::Number("LEADER"),
        Column::Text("REPLICAS"),
        Column::Text("IN SYNC"),
        Column::Number("START"),
        Column::Number("END"),
    ];

    fn cells(&self) -> Vec<String> {
        let nodes = |nodes: &[i32]| nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        vec![
            self.partition.to_string(),
            self.leader.map_or("none".to_owned(), |leader| leader.to_string()),
            nodes(&self.replicas),
            nodes(&self.in_sync),
            self.start_offset.to_string(),
            self.end_offset.to_string(),
        ]
    }
}

impl Describe {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut described = Vec::with_capacity(self.topics.len());
        for name in &self.topics {
            let topic = session.topic(name).await?;
            described.push(self.describe(session, topic).await?);
        }
        if session.output == Output::Json {
            return session.output.done("", &described);
        }
        for (index, topic) in described.iter().enumerate() {
            if index > 0 {
                output::line("")?;
            }
            let records =
                topic.partitions.iter().map(|row| (row.end_offset - row.start_offset).max(0) as u64).sum();
            let Described { topic: name, id, .. } = topic;
            output::line(&format!("topic {name}   id {id}   offsets {}", grouped(records)))?;
            for (key, value) in &topic.configs {
                output::line(&format!("  {key}={}", value.as_deref().unwrap_or("(not shown)")))?;
            }
            session.output.rows(&topic.partitions, "no partitions")?;
        }
        Ok(())
    }

    async fn describe(&self, session: &Session, topic: TopicDescription) -> Result<Described, Failure> {
        let names: Vec<_> = topic
            .partitions
            .iter()
            .map(|found| TopicPartition::new(topic.name.as_str(), found.partition))
            .collect();
        let spans = place::spans(&session.admin, &names).await?;
        let partitions = topic.partitions.into_iter().zip(&names).map(|(found, name)| {
            let span = spans.get(name).copied().unwrap_or(place::Span { start: 0, end: 0 });
            PartitionRow {
                partition: found.partition,
                leader: found.leader,
                replicas: found.replicas,
                in_sync: found.in_sync,
                start_offset: span.start,
                end_offset: span.end,
            }
        });
        Ok(Described {
            id: topic.id.to_string(),
            internal: topic.internal,
            partitions: partitions.collect(),
            configs: self.configs(session, &topic.name).await?,
            topic: topic.name,
        })
    }

    async fn configs(
        &self,
        session: &Session,
        topic: &str,
    ) -> Result<BTreeMap<String, Option<String>>, Failure> {
        let doing = format!("describe the configuration of topic '{topic}'");
        let found = session.admin.describe_configs(&[ConfigResource::Topic(topic.to_owned())]).await;
        let found = session::all(found.map_err(|error| session::refused(&doing, &error))?, |_, error| {
            session::topic_error(&doing, topic, error)
        })?;
        let shown = found
            .into_values()
            .flatten()
            .filter(|entry| self.all_configs || entry.source == ConfigSource::Topic);
        Ok(shown.map(|entry| (entry.name, entry.value)).collect())
    }
}

#[derive(Serialize)]
struct Altered<'a> {
    topic: &'a str,
    partitions: Option<i32>,
    set: BTreeMap<&'a str, &'a str>,
    unset: &'a [String],
}

impl Alter {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let Alter { topic, change } = self;
        let topic = topic.as_str();
        if let Some(count) = change.partitions {
            let doing = format!("set topic '{topic}' to {count} partitions");
            let results = session.admin.create_partitions(&[(topic, count)]).await;
            session::all(results.map_err(|error| session::refused(&doing, &error))?, |_, error| {
                session::topic_error(&doing, topic, error)
            })?;
        }
        let sets = change.config.iter().map(|(key, value)| ConfigChange::Set(key.clone(), value.clone()));
        let changes: Vec<_> = sets.chain(change.unset.iter().cloned().map(ConfigChange::Delete)).collect();
        if !changes.is_empty() {
            let doing = format!("change the configuration of topic '{topic}'");
            let results =
                session.admin.alter_configs(&[(ConfigResource::Topic(topic.to_owned()), changes)]).await;
            session::all(results.map_err(|error| session::refused(&doing, &error))?, |_, error| {
                session::topic_error(&doing, topic, error)
            })?;
        }
        let altered = Altered {
            topic,
            partitions: change.partitions,
            set: change.config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            unset: &change.unset,
        };
        session.output.done(&format!("topic '{topic}' altered"), &altered)
    }
}

#[derive(Serialize)]
struct Deleted {
    topic: String,
    deleted: bool,
}

impl Delete {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let results = session.admin.delete_topics(&self.topics).await;
        let mut failure = None;
        for (topic, result) in results.map_err(|error| session::refused("delete topics", &error))? {
            match result {
                Ok(()) => session.output.done(
                    &format!("topic '{topic}' deleted"),
                    &Deleted { topic: topic.clone(), deleted: true },
                )?,
                Err(error) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => {
                    if self.if_exists {
                        let text = format!("topic '{topic}' does not exist");
                        session.output.done(&text, &Deleted { topic: topic.clone(), deleted: false })?;
                    } else {
                        let missing = Failure::new(Exit::NotFound, format!("topic '{topic}' does not exist"));
                        failure.get_or_insert(missing.cure("see `kappa topic list`, or pass --if-exists"));
                    }
                }
                Err(error) => {
                    failure.get_or_insert(session::refused(&format!("delete topic '{topic}'"), &error));
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

#[derive(Serialize)]
struct Shortened {
    topic: String,
    partition: i32,
    start_offset: i64,
    deleted: i64,
}

impl Row for Shortened {
    const COLUMNS: &'static [Column] =
        &[Column::Number("PARTITION"), Column::Number("START"), Column::Number("DELETED OFFSETS")];

    fn cells(&self) -> Vec<String> {
        vec![self.partition.to_string(), self.start_offset.to_string(), self.deleted.to_string()]
    }
}

impl DeleteRecords {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let topic = self.topic.as_str();
        let partitions = session.partitions(topic, &self.partition).await?;
        let spans = place::spans(&session.admin, &partitions).await?;
        // One that cannot be done is told before anything is deleted.
        let short = spans.iter().find(|(_, span)| self.before.is_some_and(|before| before > span.end));
        if let Some((partition, span)) = short {
            let before = self.before.unwrap_or_default();
            return Err(Failure::failed(format!(
                "{partition} ends at {}, before offset {before}; nothing was deleted",
                span.end
            ))
            .cure("name an offset up to its end, other partitions with -p, or --all"));
        }
        let before: Vec<_> = spans
            .iter()
            .map(|(partition, span)| (partition.clone(), self.before.unwrap_or(span.end)))
            .collect();
        let doing = format!("delete records of topic '{topic}'");
        let results = session.admin.delete_records(&before).await;
        let mut shortened = Vec::with_capacity(before.len());
        let mut failure = None;
        for (partition, result) in results.map_err(|error| session::refused(&doing, &error))? {
            match result {
                Ok(start_offset) => {
                    let was = spans.get(&partition).map_or(start_offset, |span| span.start);
                    shortened.push(Shortened {
                        topic: topic.to_owned(),
                        partition: partition.partition,
                        start_offset,
                        deleted: (start_offset - was).max(0),
                    });
                }
                Err(error) => {
                    let doing = format!("delete records of {partition}");
                    failure.get_or_insert(session::topic_error(&doing, topic, &error));
                }
            }
        }
        session.output.rows(&shortened, "nothing was deleted")?;
        failure.map_or(Ok(()), Err)
    }
}
