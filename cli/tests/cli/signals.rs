//! What SIGINT, SIGTERM and SIGHUP do to a command: all three the same.

use crate::harness::Broker;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// How long a command may take to end once it was asked to: less than the 5 s between a member's commits, and far less
/// than the session timeout after which a group gives up a member that has not left.
const SOON: Duration = Duration::from_secs(4);
const SIGNALS: [(Signal, &str); 3] = [(Signal::INT, "int"), (Signal::TERM, "term"), (Signal::HUP, "hup")];

fn start(broker: &Broker, arguments: &[&str]) -> Child {
    let mut command = broker.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends a signal and returns how the process ended and what it said.
fn end(mut child: Child, signal: Signal) -> (Option<i32>, String) {
    kill_process(Pid::from_child(&child), signal).unwrap();
    let asked = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if asked.elapsed() > SOON {
            child.kill().unwrap();
            panic!("{signal:?} has not ended it after {SOON:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.code(), said)
}

#[test]
fn member_of_a_group_commits_and_leaves() {
    let broker = Broker::start();
    for (signal, name) in SIGNALS {
        broker.kappa(&["topic", "create", name, "-p", "1"]).ok();
        broker.kappa_with(&["produce", name], b"a\nb\nc\n").ok();
        let mut child = start(&broker, &["consume", name, "-g", name]);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.take(3).map(Result::unwrap).collect::<String>(), "abc", "{name}");
        assert_eq!(end(child, signal), (Some(130), String::new()), "{name}");
        let described = broker.kappa(&["group", "describe", name, "--output", "json"]).ok();
        assert!(described.contains("\"committed\":3"), "{name}: {described}");
        assert!(broker.kappa(&["group", "describe", name]).ok().contains("members 0"), "{name}");
    }
}

#[test]
fn producing_ends_though_the_input_does_not() {
    let broker = Broker::start();
    broker.kappa(&["topic", "create", "t", "-p", "1"]).ok();
    for (signal, name) in SIGNALS {
        let mut child = start(&broker, &["produce", "t"]);
        let mut input = child.stdin.take().unwrap();
        input.write_all(format!("{name}\n").as_bytes()).unwrap();
        let asked = Instant::now();
        while !broker.kappa(&["consume", "t", "-o", "beginning", "-e"]).ok().contains(name) {
            assert!(asked.elapsed() < Duration::from_secs(30));
        }
        assert_eq!(end(child, signal), (Some(130), String::new()), "{name}");
        drop(input);
    }
}

/// As under `nohup`.
#[test]
fn hangup_that_was_ignored_from_the_start_ends_nothing() {
    let broker = Broker::start();
    broker.kappa(&["topic", "create", "t", "-p", "1"]).ok();
    broker.kappa_with(&["produce", "t"], b"a\n").ok();
    let consume = broker.command(&["consume", "t", "-o", "beginning"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(consume.get_program()).args(consume.get_args());
    let mut child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "a");
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    broker.kappa_with(&["produce", "t"], b"b\n").ok();
    assert_eq!(lines.next().unwrap().unwrap(), "b");
    assert_eq!(end(child, Signal::TERM), (Some(130), String::new()));
}

#[test]
fn commands_that_measure_end_at_once() {
    let broker = Broker::start();
    for (signal, name) in SIGNALS {
        let topic = format!("bench-{name}");
        let child = start(&broker, &["bench", "latency", &topic, "--records", "1000000", "--rate", "10"]);
        let asked = Instant::now();
        while !broker.kappa(&["topic", "list"]).ok().contains(&topic) {
            assert!(asked.elapsed() < Duration::from_secs(30));
        }
        assert_eq!(end(child, signal).0, Some(130), "{name}");
    }
}
