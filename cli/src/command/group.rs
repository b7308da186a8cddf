//! `kappa group`: list, describe, delete, reset-offsets.

use crate::{
    error::{Exit, Failure},
    output::{self, Column, Output, Row},
    place::{self, Place},
    session::{self, Session},
};
use kappa_client::{
    TopicPartition,
    admin::{GroupDescription, OffsetAndMetadata},
};
use kappa_protocol::ErrorCode;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// List, describe and delete consumer groups; reset their offsets
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GroupCommand {
    /// List groups
    List,
    /// Show committed offsets, lag and members of groups
    Describe(Groups),
    /// Delete groups that have no members, with their offsets
    Delete(Groups),
    /// Set a group's offsets; shows what would change unless --execute is given
    ///
    /// The group must have no members, or they would go on from where they are.
    #[command(after_long_help = RESET_EXAMPLES)]
    ResetOffsets(ResetOffsets),
}

const RESET_EXAMPLES: &str = "\
Examples:
  kappa group reset-offsets billing --topic orders --to beginning
  kappa group reset-offsets billing --topic orders:0,3 --to @2013-07-04 --execute
  kappa group reset-offsets billing --all-topics --shift=-100 --execute";

/// Names of groups.
#[derive(Debug, clap::Args)]
pub(crate) struct Groups {
    /// Names of the groups
    #[arg(value_name = "GROUP", required = true)]
    groups: Vec<String>,
}

/// Arguments of `kappa group reset-offsets`.
#[derive(Debug, clap::Args)]
pub(crate) struct ResetOffsets {
    /// Name of the group; it need not exist yet
    #[arg(value_name = "GROUP")]
    group: String,
    /// A topic, or some of its partitions; may be repeated
    #[arg(short, long, value_name = "TOPIC[:N,N...]", value_parser = chosen, required_unless_present = "all_topics")]
    topic: Vec<Chosen>,
    /// Every partition that the group has committed offsets of
    #[arg(long, conflicts_with = "topic")]
    all_topics: bool,
    /// The new offsets: beginning, end, N, -N before the end, or @TIME
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true, required_unless_present = "shift")]
    to: Option<Place>,
    /// Move the committed offsets by so many, back if negative
    #[arg(long, value_name = "N", allow_hyphen_values = true, conflicts_with = "to")]
    shift: Option<i64>,
    /// Do it, rather than show it
    #[arg(long)]
    execute: bool,
}

/// A topic and the partitions named with it, none meaning all.
#[derive(Debug, Clone)]
struct Chosen {
    topic: String,
    partitions: Vec<i32>,
}

fn chosen(text: &str) -> Result<Chosen, String> {
    let (topic, partitions) = text.split_once(':').map_or((text, None), |(topic, rest)| (topic, Some(rest)));
    let number = |text: &str| text.parse::<i32>().ok().filter(|number| *number >= 0);
    let partitions: Option<Vec<i32>> =
        partitions.map_or(Some(Vec::new()), |list| list.split(',').map(number).collect());
    match partitions {
        Some(partitions) if !topic.is_empty() => Ok(Chosen { topic: topic.to_owned(), partitions }),
        _ => Err("expected TOPIC or TOPIC:N,N...".to_owned()),
    }
}

impl GroupCommand {
    /// Runs it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            GroupCommand::List => list(session).await,
            GroupCommand::Describe(command) => describe(session, &command.groups).await,
            GroupCommand::Delete(command) => delete(session, &command.groups).await,
            GroupCommand::ResetOffsets(command) => command.run(session).await,
        }
    }
}

/// A group that is not there.
fn no_group(group: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("group '{group}' does not exist")).cure("see `kappa group list`")
}

#[derive(Serialize)]
struct Listed {
    group: String,
    state: String,
    protocol_type: String,
}

impl Row for Listed {
    const COLUMNS: &'static [Column] =
        &[Column::Text("GROUP"), Column::Text("STATE"), Column::Text("PROTOCOL")];

    fn cells(&self) -> Vec<String> {
        vec![self.group.clone(), self.state.clone(), self.protocol_type.clone()]
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let groups =
        session.admin.list_groups().await.map_err(|error| session::refused("list groups", &error))?;
    let listed = groups.into_iter().map(|group| Listed {
        group: group.group_id,
        state: group.state,
        protocol_type: group.protocol_type,
    });
    session.output.rows(&listed.collect::<Vec<_>>(), "no groups")
}

#[derive(Serialize)]
struct Described {
    group: String,
    state: String,
    assignor: String,
    members: Vec<Member>,
    partitions: Vec<PartitionRow>,
}

#[derive(Serialize)]
struct Member {
    member_id: String,
    instance_id: Option<String>,
    client_id: String,
    host: String,
}

#[derive(Serialize)]
struct PartitionRow {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end_offset: i64,
    lag: Option<i64>,
    client_id: Option<String>,
    member_id: Option<String>,
}

impl Row for PartitionRow {
    const COLUMNS: &'static [Column] = &[
        Column::Text("TOPIC"),
        Column::Number("PARTITION"),
        Column::Number("COMMITTED"),
        Column::Number("END"),
        Column::Number("LAG"),
        Column::Text("CLIENT"),
        Column::Text("MEMBER"),
    ];

    fn cells(&self) -> Vec<String> {
        let number = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            number(self.committed),
            self.end_offset.to_string(),
            number(self.lag),
            text(&self.client_id),
            text(&self.member_id),
        ]
    }
}

async fn describe(session: &Session, groups: &[String]) -> Result<(), Failure> {
    let results = session.admin.describe_groups(groups).await;
    let found = results.map_err(|error| session::refused("describe groups", &error))?;
    let mut described = Vec::new();
    for (name, result) in found {
        let group = match result {
            Ok(group) if group.state != "Dead" => group,
            Ok(_) => return Err(no_group(&name)),
            Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => return Err(no_group(&name)),
            Err(error) => return Err(session::refused(&format!("describe group '{name}'"), &error)),
        };
        described.push(describe_one(session, group).await?);
    }
    if session.output == Output::Json {
        return session.output.done("", &described);
    }
    for (index, group) in described.iter().enumerate() {
        if index > 0 {
            output::line("")?;
        }
        let assignor =
            if group.assignor.is_empty() { String::new() } else { format!("   assignor {}", group.assignor) };
        let Described { group: name, state, members, .. } = group;
        output::line(&format!("group {name}   state {state}   members {}{assignor}", members.len()))?;
        session.output.rows(&group.partitions, "no committed offsets")?;
    }
    Ok(())
}

async fn describe_one(session: &Session, group: GroupDescription) -> Result<Described, Failure> {
    let doing = format!("read the offsets of group '{}'", group.group_id);
    let committed = session.admin.group_offsets(&group.group_id).await;
    let committed = committed.map_err(|error| session::refused(&doing, &error))?;
    let owners: BTreeMap<_, _> = group
        .members
        .iter()
        .flat_map(|member| member.assignment.iter().map(move |partition| (partition.clone(), member)))
        .collect();
    let partitions: BTreeSet<_> = committed.keys().chain(owners.keys()).cloned().collect();
    let spans = existing_spans(session, partitions).await?;
    let rows = spans.into_iter().map(|(partition, span)| {
        let offset = committed.get(&partition).map(|committed| committed.offset);
        let owner = owners.get(&partition);
        PartitionRow {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            committed: offset,
            end_offset: span.end,
            lag: offset.map(|offset| (span.end - offset).max(0)),
            client_id: owner.map(|member| member.client_id.clone()),
            member_id: owner.map(|member| member.member_id.clone()),
        }
    });
    let partitions = rows.collect();
    let members = group.members.into_iter().map(|member| Member {
        member_id: member.member_id,
        instance_id: member.group_instance_id,
        client_id: member.client_id,
        host: member.client_host,
    });
    Ok(Described {
        group: group.group_id,
        state: group.state,
        assignor: group.protocol,
        members: members.collect(),
        partitions,
    })
}

/// What the partitions hold, without those of topics that are gone.
async fn existing_spans(
    session: &Session,
    partitions: BTreeSet<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, place::Span>, Failure> {
    let topics =
        session.admin.list_topics().await.map_err(|error| session::refused("list topics", &error))?;
    let counts: BTreeMap<_, _> = topics.into_iter().map(|topic| (topic.name, topic.partitions)).collect();
    let exists = |partition: &TopicPartition| {
        let count = counts.get(&*partition.topic).copied().unwrap_or(0);
        usize::try_from(partition.partition).is_ok_and(|index| index < count)
    };
    let existing: Vec<_> = partitions.into_iter().filter(exists).collect();
    if existing.is_empty() {
        return Ok(BTreeMap::new());
    }
    place::spans(&session.admin, &existing).await
}

#[derive(Serialize)]
struct Deleted<'a> {
    group: &'a str,
    deleted: bool,
}

async fn delete(session: &Session, groups: &[String]) -> Result<(), Failure> {
    let results = session.admin.delete_groups(groups).await;
    let mut failure = None;
    for (group, result) in results.map_err(|error| session::refused("delete groups", &error))? {
        match result {
            Ok(()) => {
                session
                    .output
                    .done(&format!("group '{group}' deleted"), &Deleted { group: &group, deleted: true })?;
            }
            Err(error) => {
                failure.get_or_insert(match error.code() {
                    Some(ErrorCode::GroupIdNotFound) => no_group(&group),
                    Some(ErrorCode::NonEmptyGroup) => has_members("deleted", &group),
                    _ => session::refused(&format!("delete group '{group}'"), &error),
                });
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

fn has_members(done: &str, group: &str) -> Failure {
    Failure::failed(format!("group '{group}' has members and cannot be {done}"))
        .cure(format!("stop them first; `kappa group describe {group}` names them"))
}

#[derive(Serialize)]
struct ResetRow {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    new_offset: i64,
    executed: bool,
}

impl Row for ResetRow {
    const COLUMNS: &'static [Column] = &[
        Column::Text("TOPIC"),
        Column::Number("PARTITION"),
        Column::Number("COMMITTED"),
        Column::Number("NEW"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            self.committed.map_or("-".to_owned(), |offset| offset.to_string()),
            self.new_offset.to_string(),
        ]
    }
}

impl ResetOffsets {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let doing = format!("read the offsets of group '{}'", self.group);
        let committed = match session.admin.group_offsets(&self.group).await {
            Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => BTreeMap::new(),
            offsets => offsets.map_err(|error| session::refused(&doing, &error))?,
        };
        let partitions = self.partitions(session, &committed).await?;
        let offsets = self.new_offsets(session, &partitions, &committed).await?;
        if self.execute {
            self.commit(session, &offsets).await?;
        }
        let rows = offsets.into_iter().map(|(partition, new_offset)| ResetRow {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            committed: committed.get(&partition).map(|committed| committed.offset),
            new_offset,
            executed: self.execute,
        });
        session.output.rows(&rows.collect::<Vec<_>>(), "no partitions")?;
        if !self.execute && session.output == Output::Table {
            output::line("nothing was changed; add --execute to do it")?;
        }
        Ok(())
    }

    async fn partitions(
        &self,
        session: &Session,
        committed: &BTreeMap<TopicPartition, OffsetAndMetadata>,
    ) -> Result<Vec<TopicPartition>, Failure> {
        if self.all_topics {
            if committed.is_empty() {
                return Err(Failure::new(
                    Exit::NotFound,
                    format!("group '{}' has no committed offsets", self.group),
                )
                .cure("name the topics with --topic"));
            }
            return Ok(committed.keys().cloned().collect());
        }
        let mut partitions = BTreeSet::new();
        for chosen in &self.topic {
            partitions.extend(session.partitions(&chosen.topic, &chosen.partitions).await?);
        }
        Ok(partitions.into_iter().collect())
    }

    async fn new_offsets(
        &self,
        session: &Session,
        partitions: &[TopicPartition],
        committed: &BTreeMap<TopicPartition, OffsetAndMetadata>,
    ) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
        let (Some(shift), None) = (self.shift, self.to) else {
            return self.to.unwrap_or(Place::Beginning).offsets(&session.admin, partitions).await;
        };
        let spans = place::spans(&session.admin, partitions).await?;
        spans
            .into_iter()
            .map(|(partition, span)| {
                let current = committed.get(&partition).ok_or_else(|| {
                    Failure::failed(format!(
                        "group '{}' has no committed offset of {partition} to shift",
                        self.group
                    ))
                    .cure("use --to")
                })?;
                Ok((partition, current.offset.saturating_add(shift).clamp(span.start, span.end)))
            })
            .collect()
    }

    async fn commit(
        &self,
        session: &Session,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), Failure> {
        let doing = format!("set the offsets of group '{}'", self.group);
        let offsets: Vec<_> = offsets
            .iter()
            .map(|(partition, offset)| (partition.clone(), OffsetAndMetadata::new(*offset)))
            .collect();
        let failure = |error: &kappa_client::RequestError| match error.code() {
            // How a coordinator refuses a commit from outside while members own the partitions.
            Some(ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration | ErrorCode::NonEmptyGroup) => {
                has_members("given other offsets", &self.group)
            }
            _ => session::refused(&doing, error),
        };
        let results = session.admin.alter_group_offsets(&self.group, &offsets).await;
        session::all(results.map_err(|error| failure(&error))?, |_, error| failure(error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_chosen_with_or_without_partitions() {
        let read = |text: &str| chosen(text).map(|chosen| (chosen.topic, chosen.partitions));
        assert_eq!(read("orders"), Ok(("orders".to_owned(), vec![])));
        assert_eq!(read("orders:0,3"), Ok(("orders".to_owned(), vec![0, 3])));
        for text in ["", ":1", "orders:", "orders:a", "orders:-1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
