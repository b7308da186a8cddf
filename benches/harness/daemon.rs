//! The daemon as it is shipped, in a directory that goes with it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Units in which `/proc/PID/stat` counts CPU time.
const TICKS_PER_S: f64 = 100.0;

/// A running daemon, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Daemon {
    /// Starts `binary` on an empty directory with `settings`, each `KEY=VALUE`.
    pub(crate) fn start(binary: &Path, settings: &[&str]) -> Daemon {
        let directory = tempfile::tempdir_in(super::directory()).expect("a directory for the data");
        let mut command = Command::new(binary);
        command.args(["--listen", "127.0.0.1:0", "--http", "off", "--data-dir"]);
        command.arg(directory.path().join("data"));
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.env("RUST_LOG", "error").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the daemon can be started");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("it says where it listens");
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("kafka=")?.parse().ok());
        let address = address.unwrap_or_else(|| panic!("the daemon said {line:?}"));
        Daemon { child, address, _directory: directory }
    }

    /// User and system time that it has used so far, in microseconds.
    pub(crate) fn cpu_micros(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it lives");
        let (_, numbers) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks = numbers.split_whitespace().skip(11).take(2).map(|n| n.parse::<f64>().expect("a number"));
        ticks.sum::<f64>() / TICKS_PER_S * 1e6
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
