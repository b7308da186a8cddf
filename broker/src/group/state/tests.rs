//! Scripts in `scripts/` tell what a group does: commands, a line of dashes, what came of them. With `UPDATE_SCRIPTS`
//! set they are written anew, for a person to read the difference. A property test then lets many clients that follow
//! the protocol join, die and come back at random, and asks where they end.

mod property;

use super::{
    Action, Caller, Group, GroupLimits, JoinGroup, Joined, Joiner, SyncGroup, Synced, Ticket, WriteId,
};
use crate::group::GroupError;
use bytes::Bytes;
use std::fmt::Write as _;
use std::path::Path;

#[test]
fn scripts_give_what_they_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/group/state/scripts");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let given = run(&text);
        if std::env::var_os("UPDATE_SCRIPTS").is_some() {
            std::fs::write(&path, given).unwrap();
        } else {
            assert_eq!(text, given, "{}", path.display());
        }
        count += 1;
    }
    assert!(count >= 6);
}

/// Executes each block and puts what came of it where the expectation stood.
fn run(text: &str) -> String {
    let mut script = Script::new();
    let blocks: Vec<String> = text.trim_end().split("\n\n").map(|block| script.block(block)).collect();
    blocks.join("\n\n") + "\n"
}

struct Script {
    group: Group,
    now_ms: i64,
    tickets: u64,
    writes: Vec<WriteId>,
    out: String,
}

impl Script {
    fn new() -> Self {
        let limits = GroupLimits { initial_rebalance_delay_ms: 0, members_max: 3 };
        Self { group: Group::new(limits), now_ms: 0, tickets: 0, writes: Vec::new(), out: String::new() }
    }

    fn block(&mut self, block: &str) -> String {
        let commands: Vec<&str> = block.lines().take_while(|line| *line != "----").collect();
        self.out.clear();
        for command in &commands {
            if !command.starts_with('#') {
                self.command(command);
                self.actions();
            }
        }
        if commands.iter().all(|line| line.starts_with('#')) {
            return commands.join("\n");
        }
        format!("{}\n----\n{}", commands.join("\n"), self.out.trim_end())
    }

    fn command(&mut self, command: &str) {
        let mut words = command.split(' ');
        let verb = words.next().unwrap();
        let words: Vec<&str> = words.collect();
        let option = |name: &str| {
            words
                .iter()
                .find_map(|word| word.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
        };
        let first = words.first().copied().filter(|word| !word.contains('=')).unwrap_or_default();
        let generation = option("generation").map_or(-1, |text| text.parse().unwrap());
        let caller = Caller { member_id: first, instance_id: option("instance") };
        match verb {
            "limits" => {
                let delay = option("delay").map_or(0, |text| text.parse().unwrap());
                self.group.limits.initial_rebalance_delay_ms = delay;
            }
            "wait" => {
                self.now_ms += first.parse::<i64>().unwrap();
                self.group.tick(self.now_ms);
            }
            "join" => self.join(first, &words, option),
            "sync" => {
                let ticket = self.ticket("sync", first);
                let assignments = option("assign").into_iter().flat_map(pairs).collect();
                let sync = SyncGroup {
                    caller,
                    generation,
                    protocol_type: option("type"),
                    protocol: option("protocol"),
                    assignments,
                };
                self.group.sync(sync, ticket, self.now_ms);
            }
            "heartbeat" => {
                let answer = self.group.heartbeat(caller, generation, self.now_ms);
                self.say(&outcome(answer));
            }
            "commit" => {
                let answer = self.group.check_commit(caller, generation, self.now_ms);
                self.say(&outcome(answer));
            }
            "leave" => {
                let answer = self.group.leave(&[caller], self.now_ms);
                answer.into_iter().for_each(|answer| self.say(&outcome(answer)));
            }
            "cancel" => self.group.cancel(Ticket(first.parse().unwrap()), self.now_ms),
            "written" | "unwritten" => {
                let write = self.writes.remove(0);
                let result = if verb == "written" { Ok(()) } else { Err(GroupError::NotStored) };
                self.group.written(write, result, self.now_ms);
            }
            "restart" => {
                let metadata = self.group.metadata(self.now_ms);
                self.group = Group::restored(self.group.limits, metadata, self.now_ms);
            }
            "state" => self.state(),
            _ => panic!("no such command: {command}"),
        }
    }

    fn join<'a>(&mut self, id: &str, words: &[&str], option: impl Fn(&str) -> Option<&'a str>) {
        let ticket = self.ticket("join", id);
        let known = words.contains(&"known");
        let joiner = if known {
            Joiner::Known(id.to_owned())
        } else {
            Joiner::New { member_id: id.to_owned(), must_return: words.contains(&"must-return") }
        };
        let join = JoinGroup {
            joiner,
            instance_id: option("instance").map(str::to_owned),
            client_id: "client".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
            session_timeout_ms: option("session").map_or(10_000, |text| text.parse().unwrap()),
            rebalance_timeout_ms: option("rebalance").map_or(60_000, |text| text.parse().unwrap()),
            protocol_type: option("type").unwrap_or("consumer").to_owned(),
            protocols: pairs(option("protocols").unwrap_or("range:m")).collect(),
            can_skip_assignment: words.contains(&"can-skip"),
        };
        self.group.join(join, ticket, self.now_ms);
    }

    fn ticket(&mut self, what: &str, who: &str) -> Ticket {
        self.tickets += 1;
        self.say(&format!("{} is the {what} of {who}", self.tickets));
        Ticket(self.tickets)
    }

    fn actions(&mut self) {
        for action in self.group.take_actions() {
            match action {
                Action::AnswerJoin(ticket, answer) => {
                    let answer = answer.map(describe_joined);
                    self.say(&format!("{} {}", ticket.0, answer.unwrap_or_else(|error| error.to_string())));
                }
                Action::AnswerSync(ticket, answer) => {
                    let answer = answer.map(|Synced { protocol_type, protocol, assignment }| {
                        format!("synced: {protocol_type}/{protocol} assignment={}", text(&assignment))
                    });
                    self.say(&format!("{} {}", ticket.0, answer.unwrap_or_else(|error| error.to_string())));
                }
                Action::Write(write) => {
                    self.writes.push(write);
                    let metadata = self.group.metadata(0);
                    let members: Vec<String> = metadata
                        .members
                        .iter()
                        .map(|member| format!("{}={}", member.member_id, text(&member.assignment)))
                        .collect();
                    self.say(&format!("write: generation {} [{}]", metadata.generation, members.join(" ")));
                }
            }
        }
    }

    fn state(&mut self) {
        let members: Vec<&str> = self.group.members().map(|(id, _)| id).collect();
        let deadline = self.group.next_deadline().map(|deadline| deadline - self.now_ms);
        self.say(&format!(
            "{} generation {} leader {} members [{}] next deadline in {deadline:?}",
            self.group.state_name(),
            self.group.generation,
            self.group.leader.as_deref().unwrap_or("none"),
            members.join(" "),
        ));
    }

    fn say(&mut self, line: &str) {
        writeln!(self.out, "{line}").unwrap();
    }
}

fn outcome(answer: Result<(), GroupError>) -> String {
    answer.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
}

fn pairs(text: &str) -> impl Iterator<Item = (String, Bytes)> + '_ {
    text.split(',').map(|pair| {
        let (name, value) = pair.split_once(':').unwrap_or((pair, ""));
        (name.to_owned(), Bytes::copy_from_slice(value.as_bytes()))
    })
}

fn describe_joined(joined: Joined) -> String {
    let Joined { generation, protocol_type, protocol, leader, member_id, members, skip_assignment } = joined;
    let members: Vec<String> = members
        .iter()
        .map(|member| {
            let instance = member.instance_id.as_ref().map(|id| format!("({id})")).unwrap_or_default();
            format!("{}{instance}:{}", member.member_id, text(&member.metadata))
        })
        .collect();
    let skip = if skip_assignment { " skip assignment" } else { "" };
    format!(
        "joined: {member_id} generation {generation} {protocol_type}/{protocol} leader={leader} [{}]{skip}",
        members.join(" ")
    )
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_group_of_consumers_tells_which_topics_it_reads() {
    let mut group = Group::new(GroupLimits { initial_rebalance_delay_ms: 0, members_max: 3 });
    let mut metadata = vec![0, 1, 0, 0, 0, 1, 0, 2];
    metadata.extend(b"t1");
    metadata.extend([0xff; 4]);
    let join = JoinGroup {
        joiner: Joiner::New { member_id: "a".into(), must_return: false },
        instance_id: None,
        client_id: String::new(),
        client_host: String::new(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), metadata.into())],
        can_skip_assignment: false,
    };
    group.join(join.clone(), Ticket(1), 0);
    assert_eq!(group.subscribed_topics().unwrap().into_iter().collect::<Vec<_>>(), ["t1"]);

    let hostile = JoinGroup {
        joiner: Joiner::Known("a".into()),
        protocols: vec![("range".into(), Bytes::from_static(&[0, 1, 0x7f, 0xff, 0xff, 0xff]))],
        ..join
    };
    group.join(hostile, Ticket(2), 0);
    assert_eq!(group.subscribed_topics(), None, "what cannot be read names no topics");
}
