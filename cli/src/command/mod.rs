//! One module per noun; each holds its arguments, its help and what it does.

pub(crate) mod app;
pub(crate) mod bench;
pub(crate) mod broker;
pub(crate) mod completions;
pub(crate) mod consume;
pub(crate) mod group;
pub(crate) mod log;
pub(crate) mod produce;
pub(crate) mod topic;

use crate::{
    args::{Cli, Command},
    error::Failure,
    session::Session,
};
use std::{future::Future, process::ExitCode};

/// Runs what was typed.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let common = cli.common;
    match cli.command {
        Command::Broker(command) => return Ok(command.run()),
        Command::Completions(command) => command.run(),
        Command::Log(command) => command.run(common.output),
        Command::Demo(command) => command.run(),
        Command::Topic(command) => online(async { command.run(&Session::connect(&common).await?).await }),
        Command::Produce(command) => online(async { command.run(&Session::connect(&common).await?).await }),
        Command::Consume(command) => online(async { command.run(&Session::connect(&common).await?).await }),
        Command::Group(command) => online(async { command.run(&Session::connect(&common).await?).await }),
        Command::App(command) => online(async { command.run(&Session::connect(&common).await?).await }),
        Command::Bench(command) => online(async { command.run(&Session::connect(&common).await?).await }),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn online(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(work);
    // What still runs serves connections that nobody needs any more.
    runtime.shutdown_background();
    result
}
