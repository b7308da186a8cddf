//! What was typed: the options that all commands share, and the list of commands.
//!
//! Each command's own arguments stand with the command. Nothing is interpreted here beyond what clap checks.

use crate::{
    command::{app, bench, broker, completions, consume, group, log, produce, topic},
    demo,
    error::Exit,
    output::Output,
};
use std::io::{self, IsTerminal as _};
use tracing_subscriber::EnvFilter;

/// An append-only log you can build views on
///
/// `kappa broker` starts a broker that every Kafka client can use; the other commands work against it, or against
/// any Kafka cluster. `kappa demo` shows it all on a year of real flights.
#[derive(Debug, clap::Parser)]
#[command(name = "kappa", version, after_help = exit_codes(), after_long_help = after_long_help(), max_term_width = 110)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Say more on stderr: -v for what happens, -vv for details (KAPPA_LOG takes a filter such as `kappa_client=trace`)
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Options for all commands")]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command that talks to a broker or prints results.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options for all commands")]
pub(crate) struct Common {
    /// Brokers to ask first, as HOST:PORT[,HOST:PORT]...
    #[arg(
        short,
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "KAPPA_BOOTSTRAP_SERVER",
        default_value = "127.0.0.1:9092"
    )]
    pub(crate) bootstrap_server: String,
    /// How to print results
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run a broker in the foreground
    Broker(broker::Broker),
    /// Create, list, describe, alter and delete topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Write records from files or stdin to a topic
    Produce(produce::Produce),
    /// Print records of a topic
    Consume(consume::Consume),
    /// List, describe and delete consumer groups; reset their offsets
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Reset a streams application for a replay
    #[command(subcommand)]
    App(app::AppCommand),
    /// Look into a data directory without a broker
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Measure producing, consuming and latency against a broker
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Build live views of every flight that left New York in 2013, then rebuild them from the log
    Demo(demo::Demo),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

fn exit_codes() -> String {
    let lines = Exit::ALL.map(|(exit, meaning)| format!("  {:<4} {meaning}", exit.code()));
    format!("Exit codes:\n{}", lines.join("\n"))
}

fn after_long_help() -> String {
    format!(
        "{}\n\n\
         Examples:\n  \
         kappa broker                       # data in ./kappa-data, clients on 127.0.0.1:9092\n  \
         kappa topic create flights --partitions 6\n  \
         seq 1000 | kappa produce flights\n  \
         kappa consume flights -o beginning -e | wc -l\n  \
         kappa demo",
        exit_codes()
    )
}

/// Logs go to stderr: what `KAPPA_LOG` says, or warnings, or more with `-v`. A broker in the foreground tells what it
/// does without being asked.
pub(crate) fn start_tracing(cli: &Cli) {
    let level = match (cli.verbose, &cli.command) {
        (0, Command::Broker(_)) | (1, _) => "info",
        (0, _) => "warn",
        (2, _) => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("KAPPA_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colours = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    // It would say so where it cannot write, and panic.
    lines.log_internal_errors(false).init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_is_explained() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {} has no help",
                    command.get_name(),
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
