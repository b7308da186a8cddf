//! docs/PROTOCOL.md and docs/CONFIGURATION.md are what the tables in the code say. `KAPPA_UPDATE_DOCS=1` writes them.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected may panic")]

use std::path::Path;

fn check(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("KAPPA_UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "docs/{name} is out of date: run this test with KAPPA_UPDATE_DOCS=1");
}

#[test]
fn the_protocol_document_is_the_table_of_apis() {
    check("PROTOCOL.md", &kappa_broker::protocol_markdown());
}

#[test]
fn the_configuration_document_is_the_table_of_properties() {
    check("CONFIGURATION.md", &kappa_broker::configuration_markdown());
}
