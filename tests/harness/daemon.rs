//! The broker as a child process: started on a directory, killed, stopped, and asked what it printed.
//!
//! `KAPPA_BROKER` names another binary than the one that Cargo built for these tests, for example a release build.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running broker; killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    address: SocketAddr,
    errors: PathBuf,
    started_in: Duration,
}

impl Daemon {
    /// Starts a broker on `data` with `KEY=VALUE` settings and returns once it said that it is ready.
    pub(crate) fn start(data: &Path, settings: &[&str]) -> Daemon {
        let errors = data.with_extension("stderr");
        let log = File::options().create(true).append(true).open(&errors).expect("the directory is writable");
        let begun = Instant::now();
        let mut child = command(data, settings)
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log))
            .spawn()
            .expect("the broker's binary runs");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("it was piped"));
        while !line.contains("kafka=") {
            line.clear();
            let read = stdout.read_line(&mut line).expect("its output is text");
            assert!(
                read > 0,
                "the broker ended before it was ready: {}",
                std::fs::read_to_string(&errors).unwrap_or_default()
            );
        }
        let address = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("kafka="))
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no address in the ready line: {line}"));
        Daemon { child, address, errors, started_in: begun.elapsed() }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From the start of the process to its ready line.
    pub(crate) fn started_in(&self) -> Duration {
        self.started_in
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
        self.assert_no_panic();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is our child");
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.is_alive() {
            assert!(Instant::now() < deadline, "the broker did not stop within 30 s");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.assert_no_panic();
        self.child.wait().expect("it is our child")
    }

    /// What it printed on standard error, of every start on this directory.
    pub(crate) fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).expect("it was created at the start")
    }

    /// A broker that panicked, even if it went on, is broken.
    pub(crate) fn assert_no_panic(&self) {
        let errors = self.errors();
        assert!(!errors.contains("panicked at"), "the broker panicked:\n{errors}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The command that starts a broker, for tests of a start that fails.
pub(crate) fn command(data: &Path, settings: &[&str]) -> Command {
    let binary = std::env::var_os("KAPPA_BROKER")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_kappa-broker-under-test").into());
    let mut command = Command::new(binary);
    command.arg("--data-dir").arg(data).args(["--listen", "127.0.0.1:0", "--http", "off"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.stdin(Stdio::null());
    command
}
