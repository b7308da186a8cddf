//! Reads the schema notation: one unindented line per message, one indented line per field.
//!
//! A field that is an array of a structure (or a structure) may be followed by deeper lines that define it;
//! `struct` lines define a structure that several fields of the message share.

/// An inclusive range of versions; empty when `first > last`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Versions {
    pub(crate) first: i16,
    pub(crate) last: i16,
}

impl Versions {
    pub(crate) const NONE: Versions = Versions { first: 1, last: 0 };

    fn parse(text: &str) -> Versions {
        let number = |s: &str| s.parse::<i16>().unwrap_or_else(|_| panic!("not a version: {s}"));
        if text == "none" {
            Versions::NONE
        } else if let Some(first) = text.strip_suffix('+') {
            Versions { first: number(first), last: i16::MAX }
        } else if let Some((first, last)) = text.split_once('-') {
            Versions { first: number(first), last: number(last) }
        } else {
            Versions { first: number(text), last: number(text) }
        }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.first > self.last
    }

    pub(crate) fn covers(self, other: Versions) -> bool {
        self.first <= other.first && self.last >= other.last
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Type {
    Primitive(&'static str),
    Struct(String),
    Array(Box<Type>),
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) versions: Versions,
    pub(crate) nullable: Versions,
    /// `Some` where the field overrides the message's flexible versions.
    pub(crate) flexible: Option<Versions>,
    pub(crate) tag: Option<u32>,
    pub(crate) tagged: Versions,
    pub(crate) default: Option<String>,
    pub(crate) ignorable: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

#[derive(Debug)]
pub(crate) struct Message {
    /// `request`, `response`, `header`, `data`, `coordinator-key` or `coordinator-value`.
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) api_key: Option<i16>,
    pub(crate) valid: Versions,
    pub(crate) flexible: Versions,
    /// The first is the message itself.
    pub(crate) structs: Vec<Struct>,
}

const PRIMITIVES: [&str; 12] = [
    "bool", "int8", "int16", "uint16", "int32", "int64", "float64", "string", "bytes", "records", "uuid",
    "uint32",
];

struct Line<'a> {
    depth: usize,
    words: Vec<&'a str>,
}

/// Parses one schema file; a malformed line ends the build with its text.
pub(crate) fn parse(file: &str, text: &str) -> Vec<Message> {
    let lines: Vec<Line<'_>> = text
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
        .map(|l| Line { depth: (l.len() - l.trim_start().len()) / 2, words: l.split_whitespace().collect() })
        .collect();
    let mut messages = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let head = &lines[at];
        assert!(
            head.depth == 0 && head.words.len() >= 2,
            "{file}: expected a message line, found {:?}",
            head.words
        );
        let name = head.words[1].to_string();
        let mut structs = vec![Struct { name: name.clone(), fields: Vec::new() }];
        at += 1;
        let fields = parse_fields(&lines, &mut at, 1, &mut structs);
        structs[0].fields = fields;
        messages.push(Message {
            kind: head.words[0].to_string(),
            name,
            api_key: attribute(head, "apiKey").map(|v| v.parse().expect("apiKey is a number")),
            valid: Versions::parse(attribute(head, "validVersions").expect("validVersions")),
            flexible: attribute(head, "flexibleVersions").map_or(Versions::NONE, Versions::parse),
            structs,
        });
    }
    messages
}

fn parse_fields(lines: &[Line<'_>], at: &mut usize, depth: usize, structs: &mut Vec<Struct>) -> Vec<Field> {
    let mut fields = Vec::new();
    while *at < lines.len() && lines[*at].depth >= depth {
        let line = &lines[*at];
        assert_eq!(line.depth, depth, "unexpected indentation: {:?}", line.words);
        *at += 1;
        if line.words[0] == "struct" {
            let inner = parse_fields(lines, at, depth + 1, structs);
            structs.push(Struct { name: line.words[1].to_string(), fields: inner });
            continue;
        }
        let field = parse_field(line);
        if *at < lines.len() && lines[*at].depth > depth {
            let inner = parse_fields(lines, at, depth + 1, structs);
            structs.push(Struct { name: struct_name(&field.ty).to_string(), fields: inner });
        }
        fields.push(field);
    }
    fields
}

fn struct_name(ty: &Type) -> &str {
    match ty {
        Type::Struct(name) => name,
        Type::Array(inner) => struct_name(inner),
        Type::Primitive(name) => panic!("{name} has no fields"),
    }
}

fn parse_field(line: &Line<'_>) -> Field {
    let name =
        line.words[0].strip_suffix(':').unwrap_or_else(|| panic!("expected `Name:` in {:?}", line.words));
    Field {
        name: name.to_string(),
        ty: parse_type(line.words[1]),
        versions: Versions::parse(attribute(line, "versions").expect("versions")),
        nullable: attribute(line, "nullableVersions").map_or(Versions::NONE, Versions::parse),
        flexible: attribute(line, "flexibleVersions").map(Versions::parse),
        tag: attribute(line, "tag").map(|t| t.parse().expect("tag is a number")),
        tagged: attribute(line, "taggedVersions").map_or(Versions::NONE, Versions::parse),
        default: attribute(line, "default").map(|d| d.trim_matches('"').to_string()),
        ignorable: attribute(line, "ignorable") == Some("true"),
    }
}

fn parse_type(text: &str) -> Type {
    if let Some(inner) = text.strip_prefix("[]") {
        return Type::Array(Box::new(parse_type(inner)));
    }
    match PRIMITIVES.iter().find(|p| **p == text) {
        Some(primitive) => Type::Primitive(primitive),
        None => Type::Struct(text.to_string()),
    }
}

fn attribute<'a>(line: &Line<'a>, name: &str) -> Option<&'a str> {
    line.words.iter().find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
}
