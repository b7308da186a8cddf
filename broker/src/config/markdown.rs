//! docs/CONFIGURATION.md, written from the table.

use super::property::{Property, Scope};
use super::table::TABLE;
use std::fmt::Write;

const HEAD: &str = "# Configuration

Generated from the table in `broker/src/config/table.rs`, which also validates; a test keeps the two equal.

`kappa broker` needs none of this. A property is set at start by `--set KEY=VALUE` or in a file of such lines
(`--config FILE`), per topic by `kappa topic create|alter --config KEY=VALUE` or any Kafka tool, and for all topics while
the broker runs by `kafka-configs` on the broker. A topic's own setting wins over the broker's, what was set at run time
over what was given at start, and that over the default. Changes of a topic take effect at once. An unknown
property is refused, with the one that was meant if its name is near. At start, a flag such as `--listen` and a `--set` win over
the file; two of them that contradict each other are refused, and so is a file that sets a property twice.
";

/// The text of docs/CONFIGURATION.md.
pub fn configuration_markdown() -> String {
    let mut out = String::from(HEAD);
    out.push_str(
        "\n## Topics\n\n| topic property | for all topics | default | values | |\n|---|---|---|---|---|\n",
    );
    for property in TABLE {
        if let Scope::Topic { broker_name } = property.scope {
            let coarser = property.coarser.iter().fold(String::new(), |mut names, (name, _)| {
                let _ = write!(names, ", `{name}`");
                names
            });
            let _ = writeln!(
                out,
                "| `{}` | `{broker_name}`{coarser} | {} | {} | {} |",
                property.name,
                default(property),
                property.kind,
                property.doc
            );
        }
    }
    out.push_str(
        "\n## Broker\n\nThese are read at start.\n\n| property | default | values | |\n|---|---|---|---|\n",
    );
    for property in TABLE.iter().filter(|property| property.scope == Scope::Broker) {
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            property.name,
            default(property),
            property.kind,
            property.doc
        );
    }
    out
}

fn default(property: &Property) -> String {
    match property.default {
        "" => "none".into(),
        "9223372036854775807" => "never (2^63-1)".into(),
        value => format!("`{value}`"),
    }
}
