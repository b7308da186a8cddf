//! `kappa`: the broker, its topics and groups, records in and out, and the demo, in one binary.
//!
//! This file decides how the process ends and nothing else: which exit code, and what is said on stderr.

mod args;
mod command;
mod demo;
mod error;
mod interrupt;
mod output;
mod place;
mod progress;
mod record_json;
mod session;
mod timestamp;

use clap::Parser as _;
use std::io::Write as _;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Help, version and usage errors end the process here, with 0 or 2.
    let cli = args::Cli::parse();
    args::start_tracing(&cli);
    match command::run(cli) {
        Ok(code) => code,
        Err(failure) => {
            if !failure.is_quiet() {
                // Nobody has to read it.
                let _ = writeln!(std::io::stderr(), "kappa: {failure}");
            }
            ExitCode::from(failure.exit().code())
        }
    }
}
