//! `kappa-broker`: the daemon alone.

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A durable, partitioned log that every Kafka client can use.
#[derive(Debug, Parser)]
#[command(name = "kappa-broker", version)]
struct Flags {
    #[command(flatten)]
    args: kappa_broker::Args,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    kappa_broker::log_to_stderr();
    kappa_broker::run(flags.args)
}
