//! Help, completions, exit codes and the errors that need no broker.

use crate::harness::{kappa, run};

fn ran(arguments: &[&str]) -> crate::harness::Ran {
    run(kappa().args(arguments), b"")
}

#[test]
fn help_names_every_command_and_every_exit_code() {
    let help = ran(&["--help"]).ok();
    for word in
        ["broker", "topic", "produce", "consume", "group", "app", "log", "bench", "demo", "completions"]
    {
        assert!(help.contains(&format!("\n  {word} ")), "{word} is missing in\n{help}");
    }
    for line in [
        "0    done",
        "1    it was tried",
        "2    the command line",
        "3    no broker",
        "4    a named",
        "5    a check",
        "130  stopped",
    ] {
        assert!(help.contains(line), "{line} is missing in\n{help}");
    }
}

#[test]
fn long_help_of_every_command_shows_examples() {
    for command in [
        &["topic", "create"][..],
        &["topic", "alter"],
        &["topic", "delete-records"],
        &["produce"],
        &["consume"],
        &["group", "reset-offsets"],
        &["app", "reset"],
        &["log", "dump"],
        &["log", "verify"],
        &["bench", "produce"],
        &["bench", "latency"],
        &["broker"],
        &["demo"],
        &["completions"],
    ] {
        let help = ran(&[command, &["--help"]].concat()).ok();
        assert!(help.contains("\nExamples:\n  ") && help.contains("kappa "), "{command:?}:\n{help}");
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = ran(&["completions", shell]).ok();
        assert!(script.contains("reset-offsets"), "{shell}");
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for arguments in [
        &["frobnicate"][..],
        &["topic", "create"],
        &["topic", "alter", "t"],
        &["topic", "delete-records", "t"],
        &["topic", "delete-records", "t", "--all", "--before", "3"],
        &["consume", "t", "-o", "noon"],
        &["consume", "t", "-f", "%x"],
        &["produce", "t", "--acks", "2"],
        &["produce", "t", "--compression", "rar"],
        &["produce", "t", "--timestamp", "yesterday"],
        &["group", "reset-offsets", "g", "--topic", "t"],
        &["log", "verify"],
    ] {
        let ran = ran(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    }
}

#[test]
fn without_a_broker_commands_exit_with_3_and_say_how_to_start_one() {
    // Port 1 is reserved, and nothing that can be installed listens there.
    let unused = "127.0.0.1:1";
    for arguments in [&["topic", "list"][..], &["consume", "t"], &["produce", "t"], &["group", "list"]] {
        let ran = run(kappa().args(["-b", unused]).args(arguments), b"");
        assert_eq!(ran.code, 3, "{}", ran.stderr);
        assert!(ran.stderr.contains(unused) && ran.stderr.contains("`kappa broker`"), "{}", ran.stderr);
    }
    let ran = run(kappa().args(["-b", "nonsense", "topic", "list"]), b"");
    ran.failed(2, "kappa: bootstrap address \"nonsense\" is not host:port");
    let ran = run(kappa().args(["topic", "list"]).env("KAPPA_BOOTSTRAP_SERVER", unused), b"");
    assert!(ran.stderr.contains(unused), "{}", ran.stderr);
}

#[test]
fn what_a_broker_cannot_start_with_is_told_by_the_exit_code() {
    for (arguments, code, words) in [
        (&["--config", "/no/such/file"][..], 4, "cannot read --config /no/such/file"),
        (&["--listen", "9092"], 2, "--listen 9092: expected HOST:PORT"),
        (&["--advertise", "nonsense"], 2, "--advertise nonsense: expected HOST:PORT"),
        (&["--http", "on"], 2, "--http on: expected HOST:PORT"),
        (&["--set", "log.dirs=/x/a,/x/b"], 2, "name one, such as log.dirs=/x/a"),
        (&["--data-dir", "/x/a", "--set", "log.dirs=/x/b"], 2, "contradict each other"),
        (&["--set", "process.roles=broker"], 2, "means nothing here"),
    ] {
        let ran = ran(&[&["broker"], arguments].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn broker_without_room_for_a_connection_is_not_only_called_the_wrong_port() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let closing = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let ran = run(kappa().args(["-b", &address, "topic", "list"]), b"");
    closing.join().unwrap();
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    for words in
        [&*address, "is this the right port?", "no room for more connections (max.connections, ulimit -n)"]
    {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
}
