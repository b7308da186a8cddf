//! `kappa completions`: a script that teaches a shell the command line.

use crate::{args::Cli, error::Failure, output};
use clap::CommandFactory as _;
use clap_complete::Shell;
use std::io::Write as _;

const EXAMPLES: &str = "\
Examples:
  kappa completions bash > ~/.local/share/bash-completion/completions/kappa
  kappa completions zsh > ~/.zfunc/_kappa
  kappa completions fish > ~/.config/fish/completions/kappa.fish";

/// Arguments of `kappa completions`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub(crate) fn run(self) -> Result<(), Failure> {
        // The generator panics where it cannot write, so it writes to memory.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "kappa", &mut script);
        let mut out = output::stdout();
        out.write_all(&script).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
    }
}
