//! The rules of the source tree that no compiler checks: who may import whom, what stands at the top of a module, which
//! words are not ours, how long a file may be, and that generated documents are the ones that the code prints.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its inline tests.
const FILE_LINES_MAX: usize = 600;
const CRATES: [&str; 7] = ["protocol", "broker", "client", "streams", "cli", "tests", "benches"];
/// Which of our crates each product crate may depend on outside its tests.
const CRATE_IMPORTS: [(&str, &[&str]); 5] = [
    ("protocol", &[]),
    ("broker", &["kappa-protocol"]),
    ("client", &["kappa-protocol"]),
    ("streams", &["kappa-protocol", "kappa-client", "kappa-broker"]),
    ("cli", &["kappa-protocol", "kappa-broker", "kappa-client", "kappa-streams"]),
];
/// The layers of the broker, lowest first: a module imports modules of its own layer and of lower ones.
const BROKER_LAYERS: &[&[&str]] = &[
    &["clock", "metrics", "panics", "safeguard"],
    &["jobs", "budget"],
    &["disk"],
    &["log", "journal"],
    // A partition puts itself into the queue, and the queue commits partitions: a trait between them would have one
    // implementation each.
    &["flush", "partition"],
    &["config"],
    &["topic"],
    &["group"],
    &["handler"],
    &["dispatch"],
    &["connection", "http", "background"],
    &["server"],
    &["data_dir"],
    &["broker", "repair"],
    &["args", "process"],
    &["simulation"],
];
/// The same for streams.
const STREAMS_LAYERS: &[&[&str]] = &[
    &["codec", "time", "record", "error", "config", "safeguard"],
    &["store"],
    &["processor"],
    &["topology"],
    &["dsl"],
    &["task"],
    &["instance"],
    &["query"],
    &["runtime", "test_driver"],
    &["simulation"],
];
const WORDS_BANNED: [&str; 8] = ["topition", "ntp", "seqno", "leo", "rehydrate", "Helper", "Impl", "Manager"];
const MODULES_BANNED: [&str; 7] = ["util", "common", "helpers", "types", "misc", "manager", "impl"];
const ROOT_FILES: [&str; 10] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "rustfmt.toml",
    ".gitignore",
    // A file in a worktree.
    ".git",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file with this extension below a folder of the workspace, by its path from the root.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if entry.is_dir() && name != "target" && name != "node_modules" {
                collect(&entry, extension, found);
            } else if entry.extension().is_some_and(|own| own == extension) {
                found.push(entry);
            }
        }
    }
    let mut found = Vec::new();
    collect(&root().join(folder), extension, &mut found);
    found.sort();
    found.iter().map(|path| path.strip_prefix(root()).unwrap().to_owned()).collect()
}

fn sources() -> Vec<PathBuf> {
    CRATES.iter().flat_map(|folder| files(folder, "rs")).collect()
}

/// The text of a file with blank lines for every item that is only there in tests, and without its trailing ones.
fn without_tests(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        kept.push('\n');
        let indent = &line[..line.len() - line.trim_start().len()];
        // An item ends with a semicolon, or with a brace or bracket that stands where it began.
        for item in lines.by_ref() {
            kept.push('\n');
            let is_own = item.strip_prefix(indent).is_some_and(|rest| !rest.starts_with(' '));
            let is_attribute = item.trim_start().starts_with("#[");
            if is_own && !is_attribute && item.ends_with([';', '}', ',']) {
                break;
            }
        }
    }
    kept.truncate(kept.trim_end().len());
    kept
}

#[test]
fn only_what_is_there_in_tests_is_left_out() {
    let text = "one\n#[cfg(test)]\nmod tests;\ntwo\n#[cfg(test)]\n#[allow(x)]\nmod inner {\n    fn a() {\n    }\n}\nthree\n    \
                #[cfg(test)]\n    fn b(\n        c: u8,\n    ) {\n    }\n    four\n";
    let lines: Vec<&str> = text.lines().collect();
    let kept = without_tests(text);
    let kept: Vec<(usize, &str)> = kept.lines().enumerate().filter(|(_, line)| !line.is_empty()).collect();
    let expected = ["one", "two", "three", "    four"]
        .map(|line| (lines.iter().position(|own| *own == line).unwrap(), line));
    assert_eq!(kept, expected);
}

/// Code without comments and string literals' contents would need a lexer; leaving out comment lines is enough here.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn assert_none(what: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{what}:\n  {}", offences.join("\n  "));
}

#[test]
fn crates_depend_in_one_direction() {
    let mut offences = Vec::new();
    for (folder, allowed) in CRATE_IMPORTS {
        let manifest = read(&root().join(folder).join("Cargo.toml"));
        let dependencies =
            manifest.split("\n[").find(|section| section.starts_with("dependencies]")).unwrap_or_default();
        for line in dependencies.lines().filter(|line| line.starts_with("kappa-")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !allowed.contains(&name) {
                offences.push(format!("{folder} depends on {name}"));
            }
            if folder == "streams" && name == "kappa-broker" && !line.contains("optional = true") {
                offences.push("streams depends on kappa-broker outside the feature embedded".into());
            }
        }
    }
    assert_none("crates that depend the wrong way", &offences);
}

#[test]
fn protocol_knows_no_io_and_no_clock() {
    let banned = ["tokio", "std::fs", "std::net::Tcp", "Instant::now", "SystemTime"];
    assert_none("forbidden in protocol", &mentions("protocol/src", &banned, |_| false));
}

#[test]
fn only_disk_touches_the_file_system_in_the_broker() {
    let banned = ["std::fs", "tokio::fs", "File::open", "File::create"];
    let allowed = |path: &Path| {
        path.starts_with("broker/src/disk")
            || path == Path::new("broker/src/process.rs")
            || path == Path::new("broker/src/args.rs")
    };
    assert_none("file system outside disk", &mentions("broker/src", &banned, allowed));
}

#[test]
fn only_the_runtime_of_streams_meets_the_client_and_tokio() {
    let banned = ["tokio", "kappa_client", "kappa_broker"];
    let allowed =
        |path: &Path| path.starts_with("streams/src/runtime") || path == Path::new("streams/src/lib.rs");
    assert_none("client or tokio outside runtime", &mentions("streams/src", &banned, allowed));
}

/// Code lines (not of inline tests) below a folder that contain one of these texts.
fn mentions(folder: &str, texts: &[&str], allowed: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for path in files(folder, "rs") {
        let is_test = path.file_name().is_some_and(|name| name == "tests.rs")
            || path.iter().any(|part| part == "tests");
        if allowed(&path) || is_test {
            continue;
        }
        let text = read(&root().join(&path));
        for (number, line) in code_lines(&without_tests(&text)) {
            if let Some(banned) = texts.iter().find(|banned| line.contains(**banned)) {
                found.push(format!("{}:{number}: {banned}", path.display()));
            }
        }
    }
    found
}

#[test]
fn modules_of_the_broker_import_downwards() {
    assert_none("imports that point upwards", &upward_imports("broker", BROKER_LAYERS));
}

#[test]
fn modules_of_streams_import_downwards() {
    assert_none("imports that point upwards", &upward_imports("streams", STREAMS_LAYERS));
}

fn upward_imports(folder: &str, layers: &[&[&str]]) -> Vec<String> {
    let source = format!("{folder}/src");
    let layer_of = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    let mut offences = Vec::new();
    for path in files(&source, "rs") {
        let inner = path.strip_prefix(&source).unwrap();
        let module = inner.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" || inner.ends_with("tests.rs") {
            continue;
        }
        let Some(own) = layer_of(&module) else {
            offences.push(format!("{}: the module is in no layer", path.display()));
            continue;
        };
        let text = read(&root().join(&path));
        for (number, statement) in statements(&without_tests(&text)) {
            for imported in imported_modules(&statement) {
                if layer_of(imported).is_some_and(|layer| layer > own) {
                    offences.push(format!("{}:{number}: imports {imported}", path.display()));
                }
            }
        }
    }
    offences
}

/// Lines of code, with each `use` that spans several lines as one.
fn statements(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in code_lines(text) {
        match found.last_mut().filter(|_| open) {
            Some((_, statement)) => statement.push_str(line.trim()),
            None => found.push((number, line.trim().to_owned())),
        }
        let (_, statement) = &found[found.len() - 1];
        open = (statement.starts_with("use ") || statement.starts_with("pub"))
            && statement.contains("use ")
            && !statement.ends_with(';');
    }
    found
}

/// The top-level modules after each `crate::` of a statement, also in `crate::{a::{b, c}, d}`.
fn imported_modules(statement: &str) -> Vec<&str> {
    let name = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let mut modules = Vec::new();
    for after in statement.split("crate::").skip(1) {
        let Some(list) = after.strip_prefix('{') else {
            modules.push(&after[..name(after)]);
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    let item = list[start..at].trim();
                    modules.push(&item[..name(item)]);
                    start = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    modules
}

#[test]
fn every_module_opens_by_saying_what_it_is() {
    let offences: Vec<String> = sources()
        .iter()
        .filter(|path| !read(&root().join(path)).starts_with("//! "))
        .map(|path| path.display().to_string())
        .collect();
    assert_none("no //! on the first line", &offences);
}

#[test]
fn no_file_is_longer_than_its_budget() {
    let offences: Vec<String> = sources()
        .iter()
        .map(|path| (path, without_tests(&read(&root().join(path))).lines().count()))
        .filter(|(path, lines)| *lines > FILE_LINES_MAX && !path.ends_with("tests.rs"))
        .map(|(path, lines)| format!("{}: {lines} lines, allowed are {FILE_LINES_MAX}", path.display()))
        .collect();
    assert_none("too long", &offences);
}

#[test]
fn names_come_from_the_glossary() {
    let mut offences = Vec::new();
    for path in sources().iter().filter(|path| path.iter().any(|part| part == "src")) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if MODULES_BANNED.contains(&stem.as_str()) {
            offences.push(format!("{}: the name says nothing", path.display()));
        }
        for (number, line) in (1..).zip(read(&root().join(path)).lines()) {
            for word in line.split(|c: char| !c.is_alphanumeric()) {
                let banned = WORDS_BANNED.iter().find(|banned| {
                    let is_type = banned.starts_with(char::is_uppercase);
                    word == **banned
                        || is_type && word.starts_with(char::is_uppercase) && word.ends_with(**banned)
                });
                if let Some(banned) = banned {
                    offences.push(format!("{}:{number}: {banned} in {word}", path.display()));
                }
            }
        }
    }
    assert_none("words that are not ours", &offences);
}

#[test]
fn no_note_points_at_unfinished_work_or_at_one_machine() {
    let banned = ["todo!(", "unimplemented!(", "FIXME", "XXX", "/home/", "/root/", "TODO"];
    let mut offences = Vec::new();
    for path in sources().iter().filter(|path| !path.ends_with("tests/tidy.rs")) {
        for (number, line) in (1..).zip(read(&root().join(path)).lines()) {
            if let Some(banned) =
                banned.iter().find(|banned| line.contains(**banned) && !line.contains("TODO(#"))
            {
                offences.push(format!("{}:{number}: {banned}", path.display()));
            }
        }
    }
    assert_none("notes that do not belong here", &offences);
}

#[test]
fn unsafe_code_lives_in_one_module() {
    let mut offences = Vec::new();
    for path in sources().iter().filter(|path| !path.ends_with("tests/tidy.rs")) {
        let allows = read(&root().join(path)).lines().any(|line| {
            line.contains("unsafe_code") && (line.contains("allow(") || line.contains("expect("))
        });
        if allows && path != Path::new("broker/src/disk/mapping.rs") {
            offences.push(path.display().to_string());
        }
    }
    assert_none("unsafe code outside broker/src/disk/mapping.rs", &offences);
}

#[test]
fn the_root_holds_no_strangers() {
    let offences: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !ROOT_FILES.contains(&name.as_str()))
        .collect();
    assert_none("strangers in the root", &offences);
}

/// With `KAPPA_UPDATE=1` the documents are written instead.
#[test]
fn generated_documents_are_what_the_code_prints() {
    let documents = [
        ("docs/PROTOCOL.md", kappa_broker::protocol_markdown()),
        ("docs/CONFIGURATION.md", kappa_broker::configuration_markdown()),
    ];
    for (path, printed) in documents {
        let path = root().join(path);
        if std::env::var_os("KAPPA_UPDATE").is_some() {
            fs::write(&path, &printed).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == printed, "{} is not what the code prints: run with KAPPA_UPDATE=1", path.display());
    }
}
