//! Runs `kappa`, and a broker for it to talk to.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
};
use tempfile::TempDir;

/// The binary under test, with nothing taken from the environment of whoever runs the tests.
pub(crate) fn kappa() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kappa"));
    command.env_remove("KAPPA_BOOTSTRAP_SERVER").env_remove("KAPPA_LOG");
    command
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The output of a command that must have succeeded without a word on stderr.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        self.stdout
    }

    /// Stdout of a command that must have succeeded, as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).expect("JSON on stdout")
    }

    /// Checks that a command failed with this code and this one line on stderr.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, stderr: &str) {
        assert_eq!((self.code, self.stderr.trim_end()), (code, stderr), "{}", self.stdout);
    }
}

/// Runs a command to its end, with `input` on stdin.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    // A command may end without reading its input.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let Output { status, stdout, stderr } = child.wait_with_output().expect("the child can be waited for");
    writer.join().unwrap();
    Ran {
        code: status.code().expect("not killed by a signal"),
        stdout: String::from_utf8(stdout).expect("UTF-8 on stdout"),
        stderr: String::from_utf8(stderr).expect("UTF-8 on stderr"),
    }
}

/// A child broker; it is killed when dropped, and stopped by [`Broker::stop`].
pub(crate) struct Broker {
    child: Child,
    address: String,
    data_dir: TempDir,
}

impl Broker {
    /// Starts one and waits for its ready line.
    pub(crate) fn start() -> Broker {
        let data_dir = tempfile::tempdir().unwrap();
        let (child, address) = Broker::child("127.0.0.1:0", data_dir.path());
        Broker { child, address, data_dir }
    }

    fn child(listen: &str, data_dir: &Path) -> (Child, String) {
        let mut child = kappa()
            .args(["broker", "--listen", listen, "--http", "off", "--data-dir"])
            .arg(data_dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let address = ready.split_whitespace().find_map(|word| word.strip_prefix("kafka="));
        let address = address.unwrap_or_else(|| panic!("no ready line but {ready:?}")).to_owned();
        (child, address)
    }

    /// Ends it without a warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts another one in its place, after [`Broker::kill`] or [`Broker::stop`].
    pub(crate) fn restart(&mut self) {
        (self.child, self.address) = Broker::child(&self.address, self.data_dir.path());
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A command that talks to this broker.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = kappa();
        command.args(["-b", &self.address]).args(arguments);
        command
    }

    /// Runs a command against this broker.
    pub(crate) fn kappa(&self, arguments: &[&str]) -> Ran {
        self.kappa_with(arguments, b"")
    }

    /// The same with input.
    pub(crate) fn kappa_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        run(&mut self.command(arguments), input)
    }

    /// Where its data is.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// Sends SIGTERM, waits, and checks that it stopped cleanly. The data stays until `self` is dropped.
    pub(crate) fn stop(&mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
