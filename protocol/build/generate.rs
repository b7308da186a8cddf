//! Turns parsed schemas into Rust: a module per message, and the list of APIs.

use crate::schema::{Field, Message, Struct, Type, Versions};
use std::fmt::Write;

/// Appends a formatted line.
macro_rules! emit {
    ($out:expr, $($arg:tt)*) => { writeln!($out, $($arg)*).expect("writing to a String cannot fail") };
}

/// Appends formatted text.
macro_rules! emit_part {
    ($out:expr, $($arg:tt)*) => { write!($out, $($arg)*).expect("writing to a String cannot fail") };
}

/// `messages.rs`: one module per message, its root structures re-exported beside them.
pub(crate) fn messages(messages: &[Message]) -> String {
    let mut out = String::new();
    for message in messages {
        let module = snake(&message.name);
        emit!(out, "/// `{}` and its parts; versions {}.", message.name, range(message.valid));
        emit!(out, "pub mod {module} {{\n    use crate::wire::{{DecodeError, EncodeError, Reader, Writer}};");
        for (index, item) in message.structs.iter().enumerate() {
            structure(&mut out, message, item, index == 0);
        }
        emit!(out, "}}\npub use {module}::{};", message.name);
    }
    out
}

/// `apis.rs`: `ApiKey`, `Request` and `Response` over every request of the schema.
pub(crate) fn apis(messages: &[Message]) -> String {
    let mut apis: Vec<(i16, &str, &Message)> = messages
        .iter()
        .filter(|m| m.kind == "request")
        .map(|m| {
            (
                m.api_key.expect("a request has an apiKey"),
                m.name.strip_suffix("Request").expect("…Request"),
                m,
            )
        })
        .collect();
    apis.sort_by_key(|api| api.0);
    let mut out = String::from("define_apis! {\n");
    for (key, name, message) in apis {
        let flexible = if message.flexible.is_empty() { i16::MAX } else { message.flexible.first };
        let (min, max) = (message.valid.first, message.valid.last);
        emit!(out, "    {name} = {key}, {name}Request, {name}Response, {min}, {max}, {flexible};");
    }
    out.push_str("}\n");
    out
}

fn structure(out: &mut String, message: &Message, item: &Struct, root: bool) {
    let name = &item.name;
    emit!(out, "    /// `{name}` of `{}`.", message.name);
    emit!(out, "    #[derive(Clone, Debug, PartialEq)]\n    pub struct {name} {{");
    for field in &item.fields {
        emit!(out, "        /// {}", field_doc(field));
        emit!(out, "        pub {}: {},", snake(&field.name), rust_type(field));
    }
    emit!(
        out,
        "    }}\n    impl Default for {name} {{\n        fn default() -> Self {{\n            Self {{"
    );
    for field in &item.fields {
        emit!(out, "                {}: {},", snake(&field.name), default_value(field));
    }
    out.push_str("            }\n        }\n    }\n");
    let (visibility, trait_head) = if root {
        (
            "",
            format!(
                "    impl crate::Message for {name} {{\n        const NAME: &'static str = \"{name}\";\n"
            ),
        )
    } else {
        ("pub(crate) ", format!("    impl {name} {{\n"))
    };
    out.push_str(&trait_head);
    decoder(out, message, item, visibility, root);
    encoder(out, message, item, visibility, root);
    out.push_str("    }\n");
}

fn decoder(out: &mut String, message: &Message, item: &Struct, visibility: &str, root: bool) {
    emit!(out, "        {visibility}fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {{");
    if root {
        emit!(out, "            {}", version_guard(message, "DecodeError"));
    }
    emit!(out, "            let flexible = {};", condition(message.flexible, message.valid));
    emit!(out, "            #[allow(unused_mut)] let mut value = Self::default();");
    for field in item.fields.iter().filter(|f| plain_versions(f, message).is_some()) {
        let when = condition(plain_versions(field, message).expect("filtered"), message.valid);
        let read = read_field(field, message);
        emit!(out, "            if {when} {{ value.{} = {read}; }}", snake(&field.name));
    }
    out.push_str("            if flexible {\n                for _ in 0..r.uvarint()? {\n");
    out.push_str("                    let (tag, end) = r.begin_tag()?;\n                    match tag {\n");
    for field in item.fields.iter().filter(|f| f.tag.is_some()) {
        let when = condition(field.tagged, message.valid);
        let (tag, read) = (field.tag.expect("filtered"), read_field(field, message));
        emit!(out, "                        {tag} if {when} => {{ value.{} = {read}; }}", snake(&field.name));
    }
    out.push_str("                        _ => r.skip_to(end),\n                    }\n");
    out.push_str("                    r.end_tag(end)?;\n                }\n            }\n            Ok(value)\n        }\n");
}

fn encoder(out: &mut String, message: &Message, item: &Struct, visibility: &str, root: bool) {
    emit!(
        out,
        "        {visibility}fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {{"
    );
    if root {
        emit!(out, "            {}", version_guard(message, "EncodeError"));
    }
    emit!(out, "            let flexible = {};", condition(message.flexible, message.valid));
    for field in &item.fields {
        let name = snake(&field.name);
        let plain = plain_versions(field, message);
        let write = plain.map(|versions| (condition(versions, message.valid), write_field(field, message)));
        let covered = field.versions.covers(message.valid);
        let refuse = (!covered && !field.ignorable).then(|| {
            format!(
                "if {} && {} {{ return Err(EncodeError::NotInVersion {{ field: \"{}.{}\", version }}); }}",
                negation(&condition(field.versions, message.valid)),
                differs(field),
                item.name,
                field.name
            )
        });
        if let Some((when, write)) = write {
            emit!(out, "            if {when} {{ let field = &self.{name}; {write} }}");
        }
        if let Some(refuse) = refuse {
            emit!(out, "            {refuse}");
        }
    }
    let mut tagged: Vec<&Field> = item.fields.iter().filter(|f| f.tag.is_some()).collect();
    tagged.sort_by_key(|f| f.tag);
    out.push_str("            if flexible {\n");
    let counts: Vec<String> = tagged
        .iter()
        .map(|f| format!("u32::from({} && {})", condition(f.tagged, message.valid), differs(f)))
        .collect();
    let count = if counts.is_empty() { "0".to_string() } else { counts.join(" + ") };
    emit!(out, "                w.put_uvarint({count});");
    for field in tagged {
        let (when, differs) = (condition(field.tagged, message.valid), differs(field));
        let (tag, name, write) =
            (field.tag.expect("filtered"), snake(&field.name), write_field(field, message));
        emit!(
            out,
            "                if {when} && {differs} {{ let field = &self.{name}; w.put_tagged({tag}, |w| {{ {write} Ok(()) }})?; }}"
        );
    }
    out.push_str("            }\n            Ok(())\n        }\n");
}

fn version_guard(message: &Message, error: &str) -> String {
    let (first, last) = (message.valid.first, message.valid.last);
    format!(
        "if !({first}..={last}).contains(&version) {{ return Err({error}::UnsupportedVersion {{ message: \"{}\", version }}); }}",
        message.name
    )
}

/// The versions in which the field stands in its place rather than among the tagged ones.
fn plain_versions(field: &Field, message: &Message) -> Option<Versions> {
    if field.tag.is_none() {
        return Some(field.versions);
    }
    // A tagged field may have been an ordinary one before it got its tag.
    let plain = Versions { first: field.versions.first, last: field.tagged.first - 1 };
    (!plain.is_empty() && plain.last >= message.valid.first).then_some(plain)
}

fn condition(versions: Versions, valid: Versions) -> String {
    if versions.is_empty() || versions.first > valid.last || versions.last < valid.first {
        return "false".into();
    }
    match (versions.first <= valid.first, versions.last >= valid.last) {
        (true, true) => "true".into(),
        (true, false) => format!("version <= {}", versions.last),
        (false, true) => format!("version >= {}", versions.first),
        (false, false) => format!("({}..={}).contains(&version)", versions.first, versions.last),
    }
}

fn negation(condition: &str) -> String {
    match condition {
        "true" => "false".into(),
        "false" => "true".into(),
        other => format!("!({other})"),
    }
}

fn is_nullable(field: &Field) -> bool {
    !field.nullable.is_empty() || field.ty == Type::Primitive("records")
}

fn rust_type(field: &Field) -> String {
    let ty = plain_type(&field.ty);
    if is_nullable(field) { format!("Option<{ty}>") } else { ty }
}

fn plain_type(ty: &Type) -> String {
    match ty {
        Type::Primitive(name) => match *name {
            "bool" => "bool",
            "int8" => "i8",
            "int16" => "i16",
            "uint16" => "u16",
            "int32" => "i32",
            "uint32" => "u32",
            "int64" => "i64",
            "float64" => "f64",
            "string" => "String",
            "bytes" => "bytes::Bytes",
            "records" => "crate::Records",
            "uuid" => "uuid::Uuid",
            other => panic!("no Rust type for {other}"),
        }
        .to_string(),
        Type::Struct(name) => name.clone(),
        Type::Array(inner) => format!("Vec<{}>", plain_type(inner)),
    }
}

fn default_is_null(field: &Field) -> bool {
    field.ty == Type::Primitive("records")
        || (is_nullable(field) && matches!(field.default.as_deref(), Some("null" | "None")))
}

fn literal(field: &Field) -> String {
    let given = field.default.as_deref();
    match &field.ty {
        Type::Primitive("bool") => given.unwrap_or("false").to_string(),
        Type::Primitive("float64") => format!("{}_f64", given.unwrap_or("0.0")),
        Type::Primitive("string") => {
            format!("{:?}", given.filter(|d| *d != "null" && *d != "None").unwrap_or(""))
        }
        Type::Primitive("uuid") => "uuid::Uuid::nil()".into(),
        Type::Primitive("bytes") => "bytes::Bytes::new()".into(),
        Type::Primitive(_) => given.unwrap_or("0").to_string(),
        Type::Struct(name) => format!("{name}::default()"),
        Type::Array(_) => "Vec::new()".into(),
    }
}

fn default_value(field: &Field) -> String {
    if default_is_null(field) {
        return "None".into();
    }
    let value = match &field.ty {
        Type::Primitive("string") => format!("String::from({})", literal(field)),
        _ => literal(field),
    };
    if is_nullable(field) { format!("Some({value})") } else { value }
}

/// An expression that tells whether the field holds anything but its default.
fn differs(field: &Field) -> String {
    let name = format!("self.{}", snake(&field.name));
    if default_is_null(field) {
        return format!("{name}.is_some()");
    }
    match (&field.ty, is_nullable(field)) {
        (Type::Primitive("string"), true) => format!("{name}.as_deref() != Some({})", literal(field)),
        (Type::Primitive("string"), false) if literal(field) == "\"\"" => format!("!{name}.is_empty()"),
        (Type::Array(_) | Type::Primitive("bytes"), true) => {
            format!("{name}.as_ref().is_none_or(|v| !v.is_empty())")
        }
        (Type::Array(_) | Type::Primitive("bytes"), false) => format!("!{name}.is_empty()"),
        (Type::Primitive("bool"), false) => {
            if literal(field) == "true" {
                format!("!{name}")
            } else {
                name
            }
        }
        (_, true) => format!("{name} != Some({})", literal(field)),
        (_, false) => format!("{name} != {}", literal(field)),
    }
}

fn flexible(field: &Field) -> &'static str {
    match field.flexible {
        Some(versions) => {
            assert!(versions.is_empty(), "only `none` may override a message's flexible versions");
            "false"
        }
        None => "flexible",
    }
}

fn field_doc(field: &Field) -> String {
    let mut doc = format!("Versions {}", range(field.versions));
    if !field.nullable.is_empty() {
        emit_part!(doc, "; null in {}", range(field.nullable));
    }
    if let Some(tag) = field.tag {
        emit_part!(doc, "; tag {tag} in {}", range(field.tagged));
    }
    if let Some(default) = &field.default {
        emit_part!(doc, "; default `{}`", if default.is_empty() { "\"\"" } else { default });
    }
    if field.ignorable {
        doc.push_str("; left out where the version lacks it");
    }
    doc + "."
}

fn range(versions: Versions) -> String {
    match (versions.first, versions.last) {
        (first, i16::MAX) => format!("{first} and later"),
        (first, last) if first == last => format!("{first}"),
        (first, last) => format!("{first} to {last}"),
    }
}

fn read_field(field: &Field, message: &Message) -> String {
    let flexible = flexible(field);
    let optional = match &field.ty {
        Type::Primitive("string") => format!("r.nullable_string({flexible})?"),
        Type::Primitive("bytes") => format!("r.nullable_bytes({flexible})?"),
        Type::Primitive("records") => return format!("r.records({flexible})?"),
        Type::Array(inner) => format!(
            "match r.array_len({flexible})? {{ None => None, Some(n) => {{ let mut items = r.items::<{}>(n)?; for _ in 0..n {{ items.push({}); }} Some(items) }} }}",
            plain_type(inner),
            read_element(inner)
        ),
        Type::Struct(name) if is_nullable(field) => {
            format!("if r.i8()? < 0 {{ None }} else {{ Some({name}::decode(r, version)?) }}")
        }
        other => {
            assert!(!is_nullable(field), "{}: this type cannot be null", field.name);
            return read_element(other);
        }
    };
    let refuse = format!("Err(DecodeError::UnexpectedNull {{ field: \"{}\" }})", field.name);
    if !is_nullable(field) {
        return format!("match {optional} {{ Some(v) => v, None => return {refuse} }}");
    }
    match condition(field.nullable, message.valid).as_str() {
        "true" => optional,
        when => format!("match {optional} {{ None if !({when}) => return {refuse}, v => v }}"),
    }
}

fn read_element(ty: &Type) -> String {
    match ty {
        Type::Primitive("string") => "r.string(flexible)?".into(),
        Type::Primitive("bytes") => "r.bytes(flexible)?".into(),
        Type::Primitive(name) => format!("r.{}()?", reader_method(name)),
        Type::Struct(name) => format!("{name}::decode(r, version)?"),
        Type::Array(_) => panic!("arrays of arrays are not in the schema"),
    }
}

fn reader_method(primitive: &str) -> &'static str {
    match primitive {
        "bool" => "bool",
        "int8" => "i8",
        "int16" => "i16",
        "uint16" => "u16",
        "int32" => "i32",
        "uint32" => "u32",
        "int64" => "i64",
        "float64" => "f64",
        "uuid" => "uuid",
        other => panic!("no reader for {other}"),
    }
}

fn write_field(field: &Field, message: &Message) -> String {
    let flexible = flexible(field);
    let nullable = is_nullable(field);
    let guard = |present: String| {
        let when = condition(field.nullable, message.valid);
        if when == "true" || field.ty == Type::Primitive("records") {
            return present;
        }
        let refuse =
            format!("return Err(EncodeError::UnexpectedNull {{ field: \"{}\", version }});", field.name);
        format!("if field.is_none() && !({when}) {{ {refuse} }} {present}")
    };
    match (&field.ty, nullable) {
        (Type::Primitive("records"), _) => format!("w.put_records(field.as_ref(), {flexible})?;"),
        (Type::Primitive("string"), true) => {
            guard(format!("w.put_nullable_string(field.as_deref(), {flexible})?;"))
        }
        (Type::Primitive("bytes"), true) => {
            guard(format!("w.put_nullable_bytes(field.as_deref(), {flexible})?;"))
        }
        (Type::Array(inner), true) => guard(format!(
            "w.put_array_len(field.as_ref().map(Vec::len), {flexible})?; for item in field.iter().flatten() {{ {} }}",
            write_element(inner, "item")
        )),
        (Type::Array(inner), false) => {
            let each = write_element(inner, "item");
            format!("w.put_array_len(Some(field.len()), {flexible})?; for item in field {{ {each} }}")
        }
        (Type::Struct(_), true) => guard(
            "match field { None => w.put_i8(-1), Some(item) => { w.put_i8(1); item.encode(w, version)?; } }"
                .into(),
        ),
        (ty, false) => write_element(ty, "field"),
        (ty, true) => panic!("{}: {ty:?} cannot be null", field.name),
    }
}

fn write_element(ty: &Type, value: &str) -> String {
    match ty {
        Type::Primitive("string") => format!("w.put_string({value}, flexible)?;"),
        Type::Primitive("bytes") => format!("w.put_bytes({value}, flexible)?;"),
        Type::Primitive(name) => format!("w.put_{}(*{value});", reader_method(name)),
        Type::Struct(_) => format!("{value}.encode(w, version)?;"),
        Type::Array(_) => panic!("arrays of arrays are not in the schema"),
    }
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    let chars: Vec<char> = name.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let starts_word = c.is_uppercase()
            && i > 0
            && (!chars[i - 1].is_uppercase() || chars.get(i + 1).is_some_and(|next| next.is_lowercase()));
        if starts_word {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    match out.as_str() {
        "type" | "match" | "move" | "ref" | "self" => out + "_",
        _ => out,
    }
}
