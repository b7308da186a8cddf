//! `kappa app`: streams applications, seen from outside.

use crate::{
    error::{Exit, Failure},
    output::{self, Column, Output, Row},
    session::{self, Session},
};
use kappa_streams::{ResetError, reset, resettable};
use serde::Serialize;

/// Reset a streams application for a replay
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AppCommand {
    /// Drop an application's changelogs, repartition topics and offsets; shows them unless --execute is given
    ///
    /// The generation starts again from the beginning of its input topics, which are not touched, and builds every
    /// table anew. All its instances must be stopped. What belongs to it is what it has recorded itself.
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
    /// Which generation of it; the latest, which is the one that it starts, unless given
    #[arg(long, value_name = "N")]
    generation: Option<u32>,
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
        let Reset { application, generation, execute } = self;
        let failed = |error| failed(&application, error);
        let found = resettable(&session.client, &application, generation).await.map_err(failed)?;
        if execute {
            reset(&session.client, &application, found.generation).await.map_err(failed)?;
        }
        let row = |kind, name: &String| Dropped { kind, name: name.clone(), executed: execute };
        let topics = found.topics.iter().map(|topic| row("topic", topic));
        let rows: Vec<Dropped> = topics.chain([row("offsets", &found.group)]).collect();
        session.output.rows(&rows, "nothing")?;
        if !execute && session.output == Output::Table {
            let generation = found.generation;
            output::line(&format!("nothing of generation {generation} was dropped; add --execute to do it"))?;
        }
        Ok(())
    }
}

fn failed(application: &str, error: ResetError) -> Failure {
    match error {
        ResetError::Unknown { generation, .. } => {
            let what = format!("no generation {generation} of application '{application}' is recorded");
            Failure::new(Exit::NotFound, what).cure("is its name right? See `kappa topic list`")
        }
        ResetError::Running { ref group, .. } => {
            let cure = format!("stop its instances first; `kappa group describe {group}` names them");
            Failure::failed(format!("application '{application}' is running")).cure(cure)
        }
        ResetError::Request(error) => session::refused(&format!("reset '{application}'"), &error),
        error => Failure::failed(error.to_string()),
    }
}
