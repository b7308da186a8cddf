//! Up to a hundred clients that follow the protocol as well as they can, with deaths, lost connections and failed
//! writes among them.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Start { client: usize, fixed: bool },
    Die { client: usize },
    Disconnect { client: usize },
    Leave { client: usize },
    Act { client: usize },
    Write { succeeds: bool },
    Wait { ms: i64 },
    Restart,
}

#[derive(Clone, Debug, PartialEq)]
enum Progress {
    Joins,
    WaitsForJoin(Ticket),
    Syncs { generation: i32, everyone: Vec<String> },
    WaitsForSync { generation: i32, ticket: Ticket },
    Works { generation: i32, assignment: String },
}

struct Client {
    member_id: Option<String>,
    instance_id: Option<String>,
    progress: Progress,
}

/// The group, its clients, and what must never be otherwise.
struct World {
    group: Group,
    /// What a restart would find in the log.
    stored: Option<kappa_protocol::messages::GroupMetadataValue>,
    writes: Vec<(WriteId, kappa_protocol::messages::GroupMetadataValue)>,
    clients: BTreeMap<usize, Client>,
    now_ms: i64,
    counter: u64,
    highest_generation: i32,
}

const LIMITS: GroupLimits = GroupLimits { initial_rebalance_delay_ms: 3, members_max: 1_000 };
const SESSION_MS: i32 = 50;

impl World {
    fn new() -> Self {
        Self {
            group: Group::new(LIMITS),
            stored: None,
            writes: Vec::new(),
            clients: BTreeMap::new(),
            now_ms: 0,
            counter: 0,
            highest_generation: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Start { client, fixed } => {
                let instance_id = fixed.then(|| format!("i{client}"));
                self.clients.entry(*client).or_insert(Client {
                    member_id: None,
                    instance_id,
                    progress: Progress::Joins,
                });
            }
            Step::Die { client } => self.disconnect(*client, true),
            Step::Disconnect { client } => self.disconnect(*client, false),
            Step::Leave { client } => self.leave(*client),
            Step::Act { client } => self.act(*client),
            Step::Write { succeeds } => self.write(*succeeds),
            Step::Wait { ms } => {
                self.now_ms += ms;
                self.group.tick(self.now_ms);
            }
            Step::Restart => self.restart(),
        }
        self.deliver();
        if *step != Step::Restart {
            assert!(self.group.generation >= self.highest_generation, "a generation went backwards");
        }
        self.highest_generation = self.group.generation;
    }

    fn disconnect(&mut self, client: usize, for_good: bool) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        if let Progress::WaitsForJoin(ticket) | Progress::WaitsForSync { ticket, .. } = state.progress {
            self.group.cancel(ticket, self.now_ms);
            state.progress = Progress::Joins;
        }
        if for_good {
            self.clients.remove(&client);
        }
    }

    fn leave(&mut self, client: usize) {
        self.disconnect(client, false);
        let Some(state) = self.clients.remove(&client) else { return };
        if let Some(member_id) = &state.member_id {
            let caller = Caller { member_id, instance_id: state.instance_id.as_deref() };
            self.group.leave(&[caller], self.now_ms);
        }
    }

    /// A restart forgets what was not written; connections are gone.
    fn restart(&mut self) {
        for client in self.clients.keys().copied().collect::<Vec<_>>() {
            self.disconnect(client, false);
        }
        self.writes.clear();
        self.group.take_actions();
        self.group = match &self.stored {
            Some(metadata) => Group::restored(LIMITS, metadata.clone(), self.now_ms),
            None => Group::new(LIMITS),
        };
    }

    fn write(&mut self, succeeds: bool) {
        if self.writes.is_empty() {
            return;
        }
        let (write, metadata) = self.writes.remove(0);
        if succeeds {
            self.stored = Some(metadata);
        }
        self.group.written(write, if succeeds { Ok(()) } else { Err(GroupError::NotStored) }, self.now_ms);
    }

    /// The next thing that the client would do.
    fn act(&mut self, client: usize) {
        self.counter += 1;
        let ticket = Ticket(self.counter);
        let Some(state) = self.clients.get_mut(&client) else { return };
        let member_id = state.member_id.clone().unwrap_or_default();
        let caller = Caller { member_id: &member_id, instance_id: state.instance_id.as_deref() };
        match &state.progress {
            Progress::WaitsForJoin(_) | Progress::WaitsForSync { .. } => {}
            Progress::Joins => {
                let join = join_of(client, state, self.counter);
                state.progress = Progress::WaitsForJoin(ticket);
                self.group.join(join, ticket, self.now_ms);
            }
            Progress::Syncs { generation, everyone } => {
                let assignments = everyone
                    .iter()
                    .map(|id| (id.clone(), Bytes::from(format!("{generation}/{id}"))))
                    .collect();
                let generation = *generation;
                state.progress = Progress::WaitsForSync { generation, ticket };
                let sync = SyncGroup { caller, generation, protocol_type: None, protocol: None, assignments };
                self.group.sync(sync, ticket, self.now_ms);
            }
            Progress::Works { generation, .. } => {
                match self.group.heartbeat(caller, *generation, self.now_ms) {
                    Ok(()) => {}
                    Err(GroupError::UnknownMember | GroupError::FencedInstance) => {
                        state.member_id = None;
                        state.progress = Progress::Joins;
                    }
                    Err(_) => state.progress = Progress::Joins,
                }
            }
        }
    }

    fn deliver(&mut self) {
        for action in self.group.take_actions() {
            match action {
                Action::Write(write) => self.writes.push((write, self.group.metadata(self.now_ms))),
                Action::AnswerJoin(ticket, answer) => {
                    let waits = |client: &&mut Client| client.progress == Progress::WaitsForJoin(ticket);
                    if let Some(client) = self.clients.values_mut().find(waits) {
                        client.hear_of_join(answer);
                    }
                }
                Action::AnswerSync(ticket, answer) => {
                    if answer.is_ok() {
                        let stored = self.stored.as_ref().map(|metadata| metadata.generation);
                        assert_eq!(stored, Some(self.group.generation), "shown before it was written");
                    }
                    let waits = |client: &&mut Client| matches!(client.progress, Progress::WaitsForSync { ticket: t, .. } if t == ticket);
                    if let Some(client) = self.clients.values_mut().find(waits) {
                        client.hear_of_sync(answer);
                    }
                }
            }
        }
    }

    /// Everyone who is alive acts until nothing changes but time.
    fn settle(&mut self) {
        for _ in 0..60 {
            for client in self.clients.keys().copied().collect::<Vec<_>>() {
                self.step(&Step::Act { client });
            }
            while !self.writes.is_empty() {
                self.step(&Step::Write { succeeds: true });
            }
            self.step(&Step::Wait { ms: 10 });
        }
    }

    fn check_settled(&self) {
        let mut members = BTreeSet::new();
        for (number, client) in &self.clients {
            let Progress::Works { generation, assignment } = &client.progress else {
                panic!("client {number} ends as {:?}; group is {:?}", client.progress, self.group);
            };
            let id = client.member_id.clone().unwrap();
            assert_eq!(*generation, self.group.generation, "one generation for all");
            if client.instance_id.is_none() {
                // A static member that restarted goes on with what its predecessor was given.
                assert_eq!(
                    *assignment,
                    format!("{generation}/{id}"),
                    "its own assignment, of this generation"
                );
            }
            assert!(!assignment.is_empty());
            members.insert(id);
        }
        let known: BTreeSet<String> = self.group.members().map(|(id, _)| id.to_owned()).collect();
        assert_eq!(members, known, "members are those alive");
        let given: BTreeSet<&Bytes> = self.group.members().map(|(_, member)| &member.assignment).collect();
        assert_eq!(given.len(), known.len(), "no assignment is given twice");
        let restored = self.stored.as_ref().filter(|_| !known.is_empty());
        if let Some(metadata) = restored {
            let found: BTreeSet<String> =
                metadata.members.iter().map(|member| member.member_id.clone()).collect();
            assert_eq!(found, known, "the log knows the members");
            assert_eq!(metadata.generation, self.group.generation);
        }
    }
}

impl Client {
    fn hear_of_join(&mut self, answer: Result<Joined, GroupError>) {
        self.progress = match answer {
            Ok(joined) => {
                self.member_id = Some(joined.member_id);
                let everyone = joined.members.into_iter().map(|member| member.member_id).collect();
                Progress::Syncs { generation: joined.generation, everyone }
            }
            Err(GroupError::MemberIdRequired { member_id }) => {
                self.member_id = Some(member_id);
                Progress::Joins
            }
            Err(GroupError::UnknownMember | GroupError::FencedInstance) => {
                self.member_id = None;
                Progress::Joins
            }
            Err(_) => Progress::Joins,
        };
    }

    fn hear_of_sync(&mut self, answer: Result<Synced, GroupError>) {
        self.progress = match (answer, &self.progress) {
            (Ok(synced), Progress::WaitsForSync { generation, .. }) => {
                Progress::Works { generation: *generation, assignment: text(&synced.assignment).to_owned() }
            }
            (Err(GroupError::UnknownMember | GroupError::FencedInstance), _) => {
                self.member_id = None;
                Progress::Joins
            }
            _ => Progress::Joins,
        };
    }
}

fn join_of(number: usize, client: &Client, unique: u64) -> JoinGroup {
    let joiner = match &client.member_id {
        Some(id) => Joiner::Known(id.clone()),
        None => {
            Joiner::New { member_id: format!("c{number}-{unique}"), must_return: !number.is_multiple_of(3) }
        }
    };
    JoinGroup {
        joiner,
        instance_id: client.instance_id.clone(),
        client_id: String::new(),
        client_host: String::new(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: 100,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::from(number.to_string()))],
        can_skip_assignment: true,
    }
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..100_usize;
    prop_oneof![
        10 => (client.clone(), prop::bool::weighted(0.3)).prop_map(|(client, fixed)| Step::Start { client, fixed }),
        2 => client.clone().prop_map(|client| Step::Die { client }),
        3 => client.clone().prop_map(|client| Step::Disconnect { client }),
        2 => client.clone().prop_map(|client| Step::Leave { client }),
        40 => client.prop_map(|client| Step::Act { client }),
        8 => prop::bool::weighted(0.9).prop_map(|succeeds| Step::Write { succeeds }),
        8 => (0..40_i64).prop_map(|ms| Step::Wait { ms }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn random_lives_end_in_one_generation_where_each_has_its_assignment(
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.settle();
        world.check_settled();
    }
}
