//! Generates the message codec from `schema/*.txt`, so that no generated code lives in the repository.

#![allow(clippy::indexing_slicing, reason = "a malformed schema must end the build")]

mod generate;
mod schema;

use std::{env, fs, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=schema");
    let mut messages = Vec::new();
    for file in ["schema/messages.txt", "schema/coordinator-records.txt"] {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("cannot read {file}: {e}"));
        messages.extend(schema::parse(file, &text));
    }
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    fs::write(Path::new(&out).join("messages.rs"), generate::messages(&messages))
        .expect("OUT_DIR is writable");
    fs::write(Path::new(&out).join("apis.rs"), generate::apis(&messages)).expect("OUT_DIR is writable");
}
