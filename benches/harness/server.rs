//! A server as a child process: this very binary, started again with a role, told apart by its CPU time.
//!
//! The child prints `ready ADDRESS`, answers every line on its standard input with `CPU_MICROS RSS_KIB`, and ends with
//! the end of its input; so it can never outlive the bench.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// CPU time and memory of a server so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// User and system time in microseconds.
    pub(crate) cpu_micros: f64,
    /// Peak resident memory in KiB.
    pub(crate) peak_rss_kib: f64,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts this binary again as `role`.
    pub(crate) fn start(role: &str) -> Server {
        let binary = std::env::current_exe().expect("the bench has a path");
        let mut child = Command::new(binary)
            .env("KAPPA_BENCH_ROLE", role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the bench can start itself");
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the server says where it listens");
        let address = line.trim().strip_prefix("ready ").and_then(|a| a.parse().ok());
        let address = address.unwrap_or_else(|| panic!("the server as {role} said {line:?}"));
        Server { child, input, output, address }
    }

    /// What it has used so far.
    pub(crate) fn usage(&mut self) -> Usage {
        let input = self.input.as_mut().expect("open until dropped");
        writeln!(input, "usage").expect("the server lives");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the server answers");
        let mut numbers = line.split_whitespace().map(|n| n.parse::<f64>().expect("a number"));
        let mut next = || numbers.next().expect("two numbers");
        Usage { cpu_micros: next(), peak_rss_kib: next() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// The role that this process was started for, if it is a server.
pub(crate) fn role() -> Option<String> {
    std::env::var("KAPPA_BENCH_ROLE").ok()
}

/// The child's side: says where it listens, then answers until its input ends.
pub(crate) fn serve(address: SocketAddr) {
    println!("ready {address}");
    for _ in std::io::stdin().lock().lines() {
        let (cpu_micros, peak_rss_kib) = own_usage();
        println!("{cpu_micros} {peak_rss_kib}");
    }
}

/// CPU time in microseconds of this process, threads that have ended included, and its peak resident memory in KiB.
pub(crate) fn own_usage() -> (u64, u64) {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|v| v.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    (cpu.tv_sec as u64 * 1_000_000 + cpu.tv_nsec as u64 / 1000, peak)
}

/// The child's side for a broker of ours with the given settings, its data in a directory that goes with it.
pub(crate) fn serve_broker(settings: &[(&str, &str)]) {
    let directory = tempfile::tempdir_in(super::directory()).expect("a directory for the data");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut config = kappa_broker::BrokerConfig::new(directory.path().join("data"));
    for (key, value) in settings {
        config.set(key, value).expect("a known setting");
    }
    let broker = runtime.block_on(kappa_broker::Broker::start(config)).expect("the broker starts");
    serve(broker.address());
    runtime.block_on(broker.stop()).expect("the broker stops");
}
