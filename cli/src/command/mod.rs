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
    interrupt::Interrupt,
    session::Session,
};
use std::{future::Future, process::ExitCode};

/// Runs what was typed.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let common = cli.common;
    let connect = || Session::connect(&common);
    match cli.command {
        Command::Broker(command) => return Ok(command.run()),
        Command::Completions(command) => command.run(),
        Command::Log(command) => interruptible(offline(move || command.run(common.output))),
        Command::Demo(command) => command.run(),
        Command::Topic(command) => interruptible(async { command.run(&connect().await?).await }),
        Command::Produce(command) => online(async |mut interrupt| {
            let session = interrupt.or(connect()).await?;
            command.run(&session, &mut interrupt).await
        }),
        Command::Consume(command) => online(async |mut interrupt| {
            let session = interrupt.or(connect()).await?;
            command.run(&session, &mut interrupt).await
        }),
        Command::Group(command) => interruptible(async { command.run(&connect().await?).await }),
        Command::App(command) => interruptible(async { command.run(&connect().await?).await }),
        Command::Bench(command) => interruptible(async { command.run(&connect().await?).await }),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Runs work that a signal may end anywhere.
fn interruptible(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    online(async |mut interrupt| interrupt.or(work).await)
}

/// Runs work that sees to signals itself.
fn online(work: impl AsyncFnOnce(Interrupt) -> Result<(), Failure>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(async { work(Interrupt::listen()?).await });
    // What still runs serves connections that nobody needs any more.
    runtime.shutdown_background();
    result
}

/// Work that blocks, on a thread of its own; a signal leaves it behind.
async fn offline(work: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<(), Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Failure::failed(error.to_string())),
        },
    }
}
