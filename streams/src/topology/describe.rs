//! A topology as text.
//!
//! The text names everything that tasks of one application must agree on, in an order that depends on the
//! wiring alone, so its checksum is the topology's fingerprint.

use super::{Built, Changelog, TopicId, TopicKind, names::TopicDef};
use std::fmt::Write as _;

pub(super) fn describe(topology: &Built) -> String {
    let mut text = format!("application {}\n", topology.application);
    for (number, part) in topology.sub_topologies.iter().enumerate() {
        let _ = writeln!(text, "sub-topology {number}");
        for id in &part.nodes {
            let Some(node) = topology.nodes.get(id.0 as usize) else { continue };
            let _ = write!(text, "  {} {}", node.operator, node.name);
            if let Some(topic) = node.topic.and_then(|topic| topic_of(topology, topic)) {
                let _ = write!(text, " ({})", topic_text(topic));
            }
            if let Some(contents) = &node.contents {
                let _ = write!(text, " {{{contents}}}");
            }
            for store in topology.stores.iter().filter(|store| store.node == *id) {
                let kept = match store.changelog {
                    Changelog::Own(_) => "changelog",
                    Changelog::Source(_) => "source topic",
                };
                let _ = write!(text, " [store {}, {kept}]", store.name);
            }
            let parents: Vec<&str> = node
                .parents
                .iter()
                .filter_map(|parent| topology.nodes.get(parent.0 as usize))
                .map(|parent| &*parent.name)
                .collect();
            if !parents.is_empty() {
                let _ = write!(text, " <- {}", parents.join(", "));
            }
            text.push('\n');
        }
    }
    for global in &topology.globals {
        let topic = topic_of(topology, global.topic).map_or("", |topic| &topic.name);
        let _ = writeln!(text, "global table {} (topic {topic})", global.name);
    }
    text
}

fn topic_of(topology: &Built, topic: TopicId) -> Option<&TopicDef> {
    topology.topics.get(topic.0 as usize)
}

fn topic_text(topic: &TopicDef) -> String {
    match topic.kind {
        TopicKind::External => format!("topic {}", topic.name),
        TopicKind::Repartition { partitions: None } => format!("repartition {}", topic.name),
        TopicKind::Repartition { partitions: Some(count) } => {
            format!("repartition {}, {count} partitions", topic.name)
        }
        TopicKind::Changelog { .. } => format!("changelog {}", topic.name),
    }
}
