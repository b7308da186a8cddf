//! Why a command ended early: what went wrong, what cures it, and the exit code that says so to a script.
//!
//! Invariant: every failure has exactly one [`Exit`]; the codes are documented in `kappa --help` from [`Exit::ALL`]
//! and are never renumbered.

use std::fmt::{self, Display};

/// Topics that no client may create.
const INTERNAL: [&str; 2] = ["__consumer_offsets", "__kappa_catalog"];

/// How the process ends, as seen by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything that was asked for has happened.
    Done = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// No broker answers at the bootstrap address.
    Unreachable = 3,
    /// A named topic, group, file or directory does not exist.
    NotFound = 4,
    /// A check ran to its end and found that something does not hold, or what is to be read is damaged.
    Unsound = 5,
    /// Stopped by SIGINT (Ctrl-C), SIGTERM or SIGHUP.
    Interrupted = 130,
}

impl Exit {
    /// All codes with what they mean, in the order of the help text.
    pub(crate) const ALL: [(Exit, &'static str); 7] = [
        (Exit::Done, "done"),
        (Exit::Failed, "it was tried and failed"),
        (Exit::Usage, "the command line cannot be understood"),
        (Exit::Unreachable, "no broker answers at the bootstrap address"),
        (Exit::NotFound, "a named topic, group, file or directory does not exist"),
        (
            Exit::Unsound,
            "a check found that something does not hold (log verify, log repair, demo), or records are damaged (consume)",
        ),
        (Exit::Interrupted, "stopped by Ctrl-C, SIGTERM or SIGHUP"),
    ];

    /// The number the shell sees.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

/// A command's failure in words for a person.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    cure: Option<String>,
}

impl Failure {
    /// A failure that ends the process with `exit`.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), cure: None }
    }

    /// Something was tried and failed.
    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what)
    }

    /// Adds what the reader can do about it.
    pub(crate) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// Adds something else that can be done.
    pub(crate) fn cure_too(self, other: &str) -> Self {
        match &self.cure {
            Some(cure) => Self { cure: Some(format!("{cure}; {other}")), ..self },
            None => self.cure(other),
        }
    }

    /// A topic that is not there.
    pub(crate) fn no_topic(topic: &str) -> Self {
        let missing = Self::new(Exit::NotFound, format!("topic '{topic}' does not exist"));
        if INTERNAL.contains(&topic) {
            return missing.cure("the broker makes it by itself, such as when a group first commits");
        }
        missing.cure(format!("create it with `kappa topic create {topic}`"))
    }

    /// A file or directory that cannot be used.
    pub(crate) fn file(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Self::new(exit, format!("cannot {doing} '{}': {error}", path.display()))
    }

    /// Standard output could not be written. That its reader went away (`| head`) is no failure of ours: nobody is
    /// left to be told, and the process ends quietly.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Done, "the reader of standard output went away");
        }
        Self::failed(format!("cannot write to standard output: {error}"))
    }

    /// The same failure with more said of it.
    pub(crate) fn and(self, more: &str) -> Self {
        Self { what: format!("{}; {more}", self.what), ..self }
    }

    /// A signal asked for the end.
    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }

    /// Whether there is nothing to say that the user does not know.
    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self.exit, Exit::Done | Exit::Interrupted)
    }

    /// How the process ends.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.cure {
            Some(cure) => write!(f, "; {cure}"),
            None => Ok(()),
        }
    }
}

/// An error and all that caused it, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their cause in their own words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
