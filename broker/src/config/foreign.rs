//! Properties of Apache Kafka that mean nothing here, with the reason: who brings Kafka's file learns what to leave out.

const ALONE: &str = "this is one broker without a controller quorum, so leave it out";
const PLAIN: &str =
    "only PLAINTEXT without authentication is served, so leave it out and let a proxy before it do TLS";
const COPIES: &str = "there is one broker, which replicates nothing, so leave it out";
const THREADS: &str = "threads are not set here, so leave it out";

/// Names, or beginnings of names that end in a dot, and why they are not taken.
const FOREIGN: &[(&str, &str)] = &[
    ("process.roles", ALONE),
    ("controller.", ALONE),
    ("inter.broker.listener.name", ALONE),
    ("metadata.log.", ALONE),
    ("early.start.listeners", ALONE),
    ("broker.rack", ALONE),
    ("zookeeper.", "there is no ZooKeeper, so leave it out"),
    ("broker.id", "set node.id instead"),
    ("log.dir", "set log.dirs, to one directory"),
    ("listener.security.protocol.map", PLAIN),
    ("security.", PLAIN),
    ("ssl.", PLAIN),
    ("sasl.", PLAIN),
    ("authorizer.", PLAIN),
    ("super.users", PLAIN),
    ("replica.", COPIES),
    ("num.replica.fetchers", COPIES),
    ("offsets.topic.replication.factor", COPIES),
    ("transaction.state.log.replication.factor", COPIES),
    ("transaction.state.log.min.isr", COPIES),
    ("share.coordinator.state.topic.replication.factor", COPIES),
    ("share.coordinator.state.topic.min.isr", COPIES),
    ("unclean.leader.election.enable", COPIES),
    ("auto.leader.rebalance.enable", COPIES),
    ("leader.imbalance.", COPIES),
    ("num.network.threads", THREADS),
    ("num.io.threads", THREADS),
    ("num.recovery.threads.per.data.dir", THREADS),
    ("background.threads", THREADS),
    ("log.cleaner.threads", THREADS),
    ("queued.max.requests", "requests are bounded by their bytes: set queued.max.request.bytes instead"),
    ("socket.send.buffer.bytes", "the operating system sizes the buffers of sockets, so leave it out"),
    ("socket.receive.buffer.bytes", "the operating system sizes the buffers of sockets, so leave it out"),
    ("remote.log.", "there is no tiered storage, so leave it out"),
    ("log.flush.scheduler.interval.ms", "set kappa.flush instead"),
];

/// Why a property of Kafka's is not taken; `None` if it is none of those known.
pub(super) fn reason(name: &str) -> Option<&'static str> {
    let is = |known: &str| name == known || known.ends_with('.') && name.starts_with(known);
    let (_, reason) = FOREIGN.iter().find(|(known, _)| is(known))?;
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::super::property::broker_property;
    use super::*;

    #[test]
    fn nothing_that_is_taken_is_called_foreign() {
        for property in super::super::TABLE {
            assert_eq!(reason(property.broker_name()), None, "{}", property.broker_name());
        }
        assert!(FOREIGN.iter().all(|(name, _)| broker_property(name).is_none()));
        assert!(reason("ssl.keystore.location").is_some());
        assert_eq!(reason("log.dirs.x"), None);
    }
}
