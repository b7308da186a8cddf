//! The daemon as a process: the ready line, the signal, the exit codes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use tempfile::tempdir;

const DAEMON: &str = env!("CARGO_BIN_EXE_kappa-broker");

#[test]
fn the_daemon_says_when_it_is_ready_and_ends_cleanly_on_sigterm() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    let mut daemon = Command::new(DAEMON)
        .args(["--listen", "127.0.0.1:0", "--http", "off", "--data-dir"])
        .arg(&data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let rest = line.strip_prefix("kappa broker ready kafka=127.0.0.1:").unwrap();
    let (port, rest) = rest.split_once(' ').unwrap();
    assert_ne!(port.parse::<u16>().unwrap(), 0);
    assert_eq!(rest, format!("http=off data={}\n", data.display()));
    let mut client = crate::client::Client::connect(format!("127.0.0.1:{port}").parse().unwrap());
    client.create_topic("lines", 1);
    client.produce("lines", 0, &["a"]);
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())) {
        // Kernels before 5.0 do not say.
        let said = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
        assert_eq!(said.map(str::trim).unwrap_or("0"), "0", "huge pages are refused");
    }
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(data.join(".kafka_cleanshutdown").exists());
}

#[test]
fn a_daemon_whose_messages_nobody_takes_goes_on() {
    let dir = tempdir().unwrap();
    let mut daemon = Command::new(DAEMON)
        .args(["--listen", "127.0.0.1:0", "--http", "off", "--data-dir"])
        .arg(dir.path().join("data"))
        .env("RUST_LOG", "debug")
        .stdout(Stdio::piped())
        .stderr(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.strip_prefix("kappa broker ready kafka=").unwrap().split(' ').next().unwrap();
    let mut client = crate::client::Client::connect(address.parse().unwrap());
    for name in ["one", "two"] {
        client.create_topic(name, 1);
        client.produce(name, 0, &["a"]);
    }
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

#[test]
fn wrong_flags_end_with_2_and_a_directory_that_is_not_ours_with_1() {
    let run = |args: &[&str]| {
        let output = Command::new(DAEMON).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&["--set", "num.partition=3"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("unknown property num.partition: did you mean num.partitions?"), "{text}");
    assert_eq!(run(&["--set", "num.partitions"]).0, Some(2));
    assert_eq!(run(&["--nonsense"]).0, Some(2));
    let dir = tempdir().unwrap();
    std::fs::write(dir.path().join("mine"), "").unwrap();
    let path = dir.path().display().to_string();
    let (code, text) = run(&["--listen", "127.0.0.1:0", "--http", "off", "--data-dir", &path]);
    assert_eq!(code, Some(1));
    assert!(text.contains("not a data directory of ours"), "{text}");
}

#[test]
fn an_http_port_that_others_can_reach_is_warned_of() {
    for (http, warned) in [("127.0.0.1:0", false), ("0.0.0.0:0", true)] {
        let dir = tempdir().unwrap();
        let mut daemon = Command::new(DAEMON)
            .args(["--listen", "127.0.0.1:0", "--http", http, "--data-dir"])
            .arg(dir.path().join("data"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let text = String::from_utf8(daemon.wait_with_output().unwrap().stderr).unwrap();
        assert_eq!(text.contains("anyone who reaches this address"), warned, "{text}");
    }
}
