//! `kappa broker`: the daemon in the foreground, with the flags of `kappa-broker`.

use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  kappa broker                                     # 127.0.0.1:9092, data in ./kappa-data
  kappa broker --data-dir /var/lib/kappa --listen 0.0.0.0:9092 --advertise kappa.example:9092
  kappa broker --set num.partitions=6 --set kappa.flush=interval
  kappa broker --listen 127.0.0.1:0 --http off     # any free port; the ready line names it

It prints one line when it is ready and stops cleanly on SIGTERM or Ctrl-C.";

/// Arguments of `kappa broker`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Broker {
    #[command(flatten)]
    args: kappa_broker::Args,
}

impl Broker {
    /// Runs it until a signal ends it. What it has to say of a failure, it says itself.
    pub(crate) fn run(self) -> ExitCode {
        kappa_broker::run(self.args)
    }
}
