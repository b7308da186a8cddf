//! `kappa app`: streams applications, seen from outside.

use crate::{
    error::{Exit, Failure},
    output::{self, Column, Output, Row},
    session::{self, Session},
};
use kappa_protocol::ErrorCode;
use kappa_streams::InternalNames;
use serde::Serialize;

/// Reset a streams application for a replay
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AppCommand {
    /// Drop an application's changelogs, repartition topics and offsets; shows them unless --execute is given
    ///
    /// The application starts again from the beginning of its input topics, which are not touched, and builds every
    /// table anew. All its instances must be stopped.
    #[command(after_long_help = EXAMPLES)]
    Reset(Reset),
}

const EXAMPLES: &str = "\
Examples:
  kappa app reset word-count                  # what would go
  kappa app reset word-count --execute
  kappa app reset word-count --generation 2 --execute";

/// Arguments of `kappa app reset`.
#[derive(Debug, clap::Args)]
pub(crate) struct Reset {
    /// Name of the application, as given to its builder
    #[arg(value_name = "APPLICATION")]
    application: String,
    /// Which generation of it
    #[arg(long, value_name = "N", default_value_t = 0)]
    generation: u32,
    /// Do it, rather than show it
    #[arg(long)]
    execute: bool,
}

impl AppCommand {
    /// Runs it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let AppCommand::Reset(command) = self;
        command.run(session).await
    }
}

#[derive(Serialize)]
struct Dropped {
    kind: &'static str,
    name: String,
    executed: bool,
}

impl Row for Dropped {
    const COLUMNS: &'static [Column] = &[Column::Text("KIND"), Column::Text("NAME")];

    fn cells(&self) -> Vec<String> {
        vec![self.kind.to_owned(), self.name.clone()]
    }
}

impl Reset {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let names = InternalNames::new(&self.application, self.generation);
        let topics = internal_topics(session, &names).await?;
        let group = self.group(session, names.group()).await?;
        if topics.is_empty() && group.is_none() {
            let what = format!("application '{names}' has no internal topics and no offsets");
            return Err(Failure::new(Exit::NotFound, what).cure("is its name right? See `kappa group list`"));
        }
        if self.execute {
            drop_all(session, &topics, group.as_deref()).await?;
        }
        let row = |kind, name: &String| Dropped { kind, name: name.clone(), executed: self.execute };
        let rows = topics
            .iter()
            .map(|topic| row("topic", topic))
            .chain(group.iter().map(|group| row("offsets", group)));
        session.output.rows(&rows.collect::<Vec<_>>(), "nothing")?;
        if !self.execute && session.output == Output::Table {
            output::line("nothing was dropped; add --execute to do it")?;
        }
        Ok(())
    }

    /// The application's group, if it is there. A group with members is refused.
    async fn group(&self, session: &Session, group: &str) -> Result<Option<String>, Failure> {
        let doing = format!("describe group '{group}'");
        let found = session.admin.describe_groups(&[group]).await;
        let found = found.map_err(|error| session::refused(&doing, &error))?.remove(group);
        match found {
            Some(Ok(description)) if !description.members.is_empty() => {
                Err(Failure::failed(format!("application '{}' is running", self.application))
                    .cure(format!("stop its instances first; `kappa group describe {group}` names them")))
            }
            Some(Ok(description)) => Ok((description.state != "Dead").then(|| group.to_owned())),
            Some(Err(error)) if error.code() != Some(ErrorCode::GroupIdNotFound) => {
                Err(session::refused(&doing, &error))
            }
            Some(Err(_)) | None => Ok(None),
        }
    }
}

/// Changelogs and repartition topics of a generation. They are known by their names alone, so those of an application
/// whose name begins like this one's are among them: a reason to look before `--execute`.
async fn internal_topics(session: &Session, names: &InternalNames) -> Result<Vec<String>, Failure> {
    let topics =
        session.admin.list_topics().await.map_err(|error| session::refused("list topics", &error))?;
    let prefix = format!("{names}-");
    let mut found: Vec<_> = topics
        .into_iter()
        .map(|topic| topic.name)
        .filter(|name| name.strip_prefix(&prefix).is_some_and(is_internal))
        .collect();
    found.sort();
    Ok(found)
}

/// Whether `name` follows an application's name in one of its internal topics. That of a later generation has the
/// generation between: `g2-counts-changelog`.
fn is_internal(name: &str) -> bool {
    let generation = name.split_once('-').and_then(|(first, _)| first.strip_prefix('g'));
    let later = generation.is_some_and(|number| number.parse::<u32>().is_ok());
    !later && (name.ends_with("-changelog") || name.ends_with("-repartition"))
}

/// Offsets go first: without them the application starts anew, whether or not its topics could be deleted.
async fn drop_all(session: &Session, topics: &[String], group: Option<&str>) -> Result<(), Failure> {
    if let Some(group) = group {
        let doing = format!("delete the offsets of group '{group}'");
        let deleted = session.admin.delete_groups(&[group]).await;
        session::all(deleted.map_err(|error| session::refused(&doing, &error))?, |_, error| {
            session::refused(&doing, error)
        })?;
    }
    if topics.is_empty() {
        return Ok(());
    }
    let deleted = session.admin.delete_topics(topics).await;
    session::all(deleted.map_err(|error| session::refused("delete topics", &error))?, |topic, error| {
        session::refused(&format!("delete topic '{topic}'"), error)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_topics_of_this_generation_only() {
        assert!(
            is_internal("counts-changelog")
                && is_internal("by-word-repartition")
                && is_internal("g-changelog")
        );
        assert!(
            !is_internal("g2-counts-changelog")
                && !is_internal("counts")
                && !is_internal("changelog-of-ours")
        );
    }
}
