//! Wires the topology that a vector describes.

use crate::{
    datum::{Data, Datum},
    functions::{Args, Function, chosen_topic, topics_of_pattern, topics_to_choose_from},
};
use kappa_streams::{
    Builder, GlobalTable, Grouped, GroupedTable, Stream, Table, Windowed, WindowedGroup, Windows, otherwise,
    when,
};
use serde_json::Value;
use std::{cell::Cell, collections::HashMap, time::Duration};

/// What the names of a vector stand for.
#[derive(Clone)]
enum Node {
    Stream(Stream<Datum, Datum>),
    Table(Table<Datum, Datum>),
    WindowedTable(Table<Windowed<Datum>, Datum>),
    Global(GlobalTable<Datum, Datum>),
}

enum Group {
    Stream(Grouped<Datum, Datum>),
    Windowed(WindowedGroup<Datum, Datum>),
    Table(GroupedTable<Datum, Datum>),
}

/// The state of wiring one vector.
pub(crate) struct Interpreter {
    builder: Builder,
    nodes: HashMap<String, Node>,
    groups: HashMap<String, Group>,
    /// Streams by the topic they read: a topic is read once however often a vector names it.
    topics: HashMap<String, Stream<Datum, Datum>>,
    names: Cell<usize>,
    branches: Vec<Function>,
    input_topic: String,
    id: String,
}

const CODECS: (Data, Data) = (Data, Data);

type Step = Result<(), String>;

fn text<'a>(op: &'a Value, field: &str) -> Result<&'a str, String> {
    op.get(field).and_then(Value::as_str).ok_or_else(|| format!("operation without {field}"))
}

fn arg(op: &Value, index: usize) -> Option<&Value> {
    op.get("args").and_then(|args| args.get(index))
}

fn reference(op: &Value) -> Result<&str, String> {
    text(arg(op, 0).ok_or("operation without reference")?, "ref")
}

fn args(key: &Datum, value: Datum, other: Datum) -> Args {
    Args { key: key.clone(), value, other }
}

fn whole(row: Option<Datum>) -> Datum {
    row.unwrap_or(Datum::Null)
}

impl Interpreter {
    /// Wires every operation, or says which part is not built.
    pub(crate) fn wire(vector: &Value) -> Result<Builder, String> {
        let steps = vector.get("steps").and_then(Value::as_array).ok_or("no steps")?;
        let input = steps.iter().find_map(|step| step.get("in")?.get(0)?.as_str()).unwrap_or("topic");
        let mut interpreter = Interpreter {
            builder: Builder::new("vector"),
            nodes: HashMap::new(),
            groups: HashMap::new(),
            topics: HashMap::new(),
            names: Cell::new(0),
            branches: Vec::new(),
            input_topic: input.to_owned(),
            id: text(vector, "id")?.to_owned(),
        };
        for op in vector.get("topology").and_then(Value::as_array).ok_or("no topology")? {
            interpreter.op(op)?;
        }
        Ok(interpreter.builder)
    }

    fn function(&self, op: &Value, index: usize) -> Result<Function, String> {
        match Function::of_vector(&self.id, text(op, "op")?, index) {
            Some(function) => Ok(function),
            None => Function::read(arg(op, index).ok_or("operation without function")?),
        }
    }

    fn name(&self, operator: &str) -> String {
        self.names.set(self.names.get() + 1);
        format!("{operator}-{}", self.names.get())
    }

    fn op(&mut self, op: &Value) -> Step {
        match text(op, "op")? {
            "stream" | "table" | "globalTable" => self.source(op),
            "groupByKey" | "groupBy" | "windowedBy" => self.group(op),
            "count" | "reduce" | "aggregate" => self.aggregate(op),
            "join" | "leftJoin" => self.join(op),
            "to" | "process" => self.sink(op),
            "split" => Ok(()),
            "branch" => {
                let holds = self.function(op, 0)?;
                self.branches.push(holds);
                Ok(())
            }
            "defaultBranch" => self.finish_branches(op),
            _ => self.transform(op),
        }
    }

    fn set(&mut self, op: &Value, node: Node) -> Step {
        self.nodes.insert(text(op, "ret")?.to_owned(), node);
        Ok(())
    }

    fn source(&mut self, op: &Value) -> Step {
        if let Some(topics) = topics_of_pattern(&self.id, text(op, "ret")?) {
            let stream = self.builder.stream(topics, CODECS);
            return self.set(op, Node::Stream(stream));
        }
        let argument = arg(op, 0).ok_or("source without topic")?;
        let topic = argument.as_str().ok_or("the recording does not tell which topics a pattern matches")?;
        let materialized = op.get("args").map(Value::to_string).unwrap_or_default();
        if materialized.contains("versioned") {
            return Err("versioned tables are not built".to_owned());
        }
        let node = match text(op, "op")? {
            "stream" => Node::Stream(self.stream_of(topic)),
            "table" => Node::Table(self.builder.table(topic, CODECS)),
            _ => Node::Global(self.builder.global_table(topic, CODECS)),
        };
        self.set(op, node)
    }

    fn stream_of(&mut self, topic: &str) -> Stream<Datum, Datum> {
        let builder = &self.builder;
        self.topics.entry(topic.to_owned()).or_insert_with(|| builder.stream(topic, CODECS)).clone()
    }

    fn stream(&mut self, op: &Value) -> Result<Stream<Datum, Datum>, String> {
        match self.nodes.get(text(op, "on")?) {
            Some(Node::Stream(stream)) => Ok(stream.clone()),
            Some(_) => Err("operation on a table not built".to_owned()),
            None => Ok(self.stream_of(&self.input_topic.clone())),
        }
    }

    fn transform(&mut self, op: &Value) -> Step {
        let on = text(op, "on")?;
        match (text(op, "op")?, self.nodes.get(on).cloned()) {
            ("toStream", Some(node)) => self.changes(op, &node),
            ("filter", Some(Node::Table(table))) => {
                let holds = self.function(op, 0)?;
                let filtered =
                    table.filter(move |key, value| holds.holds(&args(key, value.clone(), Datum::Null)));
                self.set(op, Node::Table(filtered))
            }
            ("filterNot", Some(Node::Table(table))) => {
                let holds = self.function(op, 0)?;
                let filtered =
                    table.filter_not(move |key, value| holds.holds(&args(key, value.clone(), Datum::Null)));
                self.set(op, Node::Table(filtered))
            }
            ("mapValues", Some(Node::Table(table))) => {
                let map = self.function(op, 0)?;
                let mapped =
                    table.map_values(move |key, value| map.one(&args(key, value.clone(), Datum::Null)));
                self.set(op, Node::Table(mapped))
            }
            (other, Some(Node::Table(_) | Node::WindowedTable(_))) => {
                Err(format!("{other} on tables is not built"))
            }
            _ => self.transform_stream(op),
        }
    }

    fn transform_stream(&mut self, op: &Value) -> Step {
        let stream = self.stream(op)?;
        let result = match text(op, "op")? {
            "map" => {
                let map = self.function(op, 0)?;
                stream.map(move |key, value| map.pair(&args(&key, value, Datum::Null))).with_codecs(CODECS)
            }
            "mapValues" => {
                let map = self.function(op, 0)?;
                stream
                    .map_values_keyed(move |key, value| map.one(&args(key, value, Datum::Null)))
                    .with_codecs(CODECS)
            }
            "filter" | "filterNot" => {
                let (holds, want) = (self.function(op, 0)?, text(op, "op")? == "filter");
                stream.filter(move |key, value| holds.holds(&args(key, value.clone(), Datum::Null)) == want)
            }
            "flatMap" => {
                let map = self.function(op, 0)?;
                stream
                    .flat_map(move |key, value| map.pairs(&args(&key, value, Datum::Null)))
                    .with_codecs(CODECS)
            }
            "flatMapValues" => {
                let map = self.function(op, 0)?;
                stream
                    .flat_map_values_keyed(move |key, value| map.list(&args(key, value, Datum::Null)))
                    .with_codecs(CODECS)
            }
            "selectKey" => {
                let map = self.function(op, 0)?;
                stream.select_key(move |key, value| map.one(&args(key, value.clone(), Datum::Null)))
            }
            "repartition" => stream.repartition(&*self.name("repartition"), CODECS),
            "merge" => match self.nodes.get(reference(op)?) {
                Some(Node::Stream(other)) => stream.merge(other),
                _ => return Err("merge with something that is no stream".to_owned()),
            },
            "toTable" => {
                let table = stream.map_values(Some).to_table(&self.name("table"), CODECS);
                return self.set(op, Node::Table(table.filter(|_, value| *value != Datum::Null)));
            }
            other => return Err(format!("{other} is not built")),
        };
        self.set(op, Node::Stream(result))
    }

    fn changes(&mut self, op: &Value, node: &Node) -> Step {
        let stream = match node {
            Node::Table(table) => table.to_stream().map_values(whole),
            Node::WindowedTable(table) => table.to_stream().map(|key: Windowed<Datum>, row| {
                (Datum::Windowed(Box::new(key.key), key.window.start, key.window.end), whole(row))
            }),
            _ => return Err("toStream of something that is no table".to_owned()),
        };
        let stream = match arg(op, 0) {
            Some(spec) if spec.get("fn").is_some() => {
                let map = self.function(op, 0).or_else(|_| Function::read(spec))?;
                stream.select_key(move |key, value| map.one(&args(key, value.clone(), Datum::Null)))
            }
            _ => stream,
        };
        self.set(op, Node::Stream(stream.with_codecs(CODECS)))
    }

    fn group(&mut self, op: &Value) -> Step {
        let on = text(op, "on")?;
        let group = match (text(op, "op")?, self.nodes.get(on).cloned()) {
            ("windowedBy", _) => self.windowed(op)?,
            ("groupBy", Some(Node::Table(table))) => {
                let map = self.function(op, 0)?;
                let grouped = table.group_by(&*self.name("group"), CODECS, move |key, value| {
                    let (to, value) = map.pair(&args(key, value.clone(), Datum::Null));
                    match &map {
                        Function::Known(does) if does.starts_with("value equals") => (value.clone(), value),
                        _ => (to, value),
                    }
                });
                Group::Table(grouped)
            }
            ("groupBy", _) => {
                let (stream, map) = (self.stream(op)?, self.function(op, 0)?);
                Group::Stream(stream.group_by(&*self.name("group"), CODECS, move |key, value| {
                    map.one(&args(key, value.clone(), Datum::Null))
                }))
            }
            _ => Group::Stream(self.stream(op)?.group_by_key()),
        };
        self.groups.insert(text(op, "ret")?.to_owned(), group);
        Ok(())
    }

    fn windowed(&self, op: &Value) -> Result<Group, String> {
        let spec = arg(op, 0).and_then(|spec| spec.get("TimeWindows"));
        let spec = spec.ok_or_else(|| "session, sliding and unlimited windows are not built".to_owned())?;
        let ms = |field: &str| spec.get(field).and_then(Value::as_u64).map(Duration::from_millis);
        let (Some(size), Some(advance), Some(grace)) = (ms("size_ms"), ms("advance_ms"), ms("grace_ms"))
        else {
            return Err("time windows not readable".to_owned());
        };
        match self.groups.get(text(op, "on")?) {
            Some(Group::Stream(group)) => {
                Ok(Group::Windowed(group.windowed_by(Windows::hopping(size, advance).grace(grace))))
            }
            _ => Err("windows on something that is no group".to_owned()),
        }
    }

    fn aggregate(&mut self, op: &Value) -> Step {
        let (operator, name) = (text(op, "op")?.to_owned(), self.name("store"));
        if op.get("args").map(Value::to_string).unwrap_or_default().contains("versioned") {
            return Err("versioned tables are not built".to_owned());
        }
        let add = |index: usize| -> Result<_, String> {
            let add = self.function(op, index)?;
            Ok(move |key: &Datum, value: Datum, other: Datum| add.one(&args(key, value, other)))
        };
        let group = self.groups.get(text(op, "on")?).ok_or("aggregate of something that is no group")?;
        let node = match (group, &*operator) {
            (Group::Stream(group), "count") => {
                Node::Table(group.count(&name).map_values(|_, n| Datum::Int(*n)))
            }
            (Group::Table(group), "count") => {
                Node::Table(group.count(&name).map_values(|_, n| Datum::Int(*n)))
            }
            (Group::Windowed(group), "count") => {
                Node::WindowedTable(group.count(&name).map_values(|_, n| Datum::Int(*n)))
            }
            (Group::Stream(group), "reduce") => {
                let add = add(0)?;
                Node::Table(group.reduce(&name, move |old, new| add(&Datum::Null, new, old)))
            }
            (Group::Windowed(group), "reduce") => {
                let add = add(0)?;
                Node::WindowedTable(group.reduce(&name, move |old, new| add(&Datum::Null, new, old)))
            }
            (Group::Table(group), "reduce") => {
                let (add, subtract) = (add(0)?, add(1)?);
                Node::Table(group.reduce(
                    &name,
                    move |old, new| add(&Datum::Null, new, old),
                    move |old, new| subtract(&Datum::Null, new, old),
                ))
            }
            (group, _) => {
                let initial = self.function(op, 0)?;
                let initial = move || initial.one(&args(&Datum::Null, Datum::Null, Datum::Null));
                let add = add(1)?;
                match group {
                    Group::Stream(group) => Node::Table(group.aggregate(&name, Data, initial, add)),
                    Group::Windowed(group) => Node::WindowedTable(group.aggregate(&name, Data, initial, add)),
                    Group::Table(group) => {
                        let subtract = self.function(op, 2)?;
                        let subtract =
                            move |key: &Datum, value, other| subtract.one(&args(key, value, other));
                        Node::Table(group.aggregate(&name, Data, initial, add, subtract))
                    }
                }
            }
        };
        self.set(op, node)
    }

    fn join(&mut self, op: &Value) -> Step {
        if !matches!(self.nodes.get(text(op, "on")?), Some(Node::Stream(_))) {
            return Err("joins of tables are not built".to_owned());
        }
        if op.to_string().contains("JoinWindows") {
            return Err("joins of streams are not built".to_owned());
        }
        if op.to_string().contains("joined_grace_ms") {
            return Err("joins with grace on versioned tables are not built".to_owned());
        }
        let (stream, left, name) = (self.stream(op)?, text(op, "op")? == "leftJoin", self.name("join"));
        let other = |row: Option<&Datum>| row.cloned().unwrap_or(Datum::Null);
        let joined = match self.nodes.get(reference(op)?).cloned() {
            Some(Node::Table(table)) => {
                let join = self.function(op, 1)?;
                let join =
                    move |key: &Datum, value, row: Option<&Datum>| join.one(&args(key, value, other(row)));
                match left {
                    true => stream.left_join_table(&name, &table, join),
                    false => {
                        stream.join_table(&name, &table, move |key, value, row| join(key, value, Some(row)))
                    }
                }
            }
            Some(Node::Global(global)) => {
                let (map, join) = (self.function(op, 1)?, self.function(op, 2)?);
                let map =
                    move |key: &Datum, value: &Datum| match map.one(&args(key, value.clone(), Datum::Null)) {
                        Datum::Null => None,
                        mapped => Some(mapped),
                    };
                let join =
                    move |key: &Datum, value, row: Option<&Datum>| join.one(&args(key, value, other(row)));
                match left {
                    true => stream.left_join_global(&name, &global, map, join),
                    false => stream
                        .join_global(&name, &global, map, move |key, value, row| join(key, value, Some(row))),
                }
            }
            _ => return Err("joins of streams are not built".to_owned()),
        };
        self.set(op, Node::Stream(joined.with_codecs(CODECS)))
    }

    fn sink(&mut self, op: &Value) -> Step {
        let stream = self.stream(op)?;
        let topic = match op.get("sink") {
            Some(sink) => sink.as_str(),
            None => arg(op, 0).and_then(Value::as_str),
        };
        match (topic, topics_to_choose_from(&self.id)) {
            (Some(topic), _) => stream.to(topic, CODECS),
            (None, Some(topics)) => {
                stream.to_with(topics, CODECS, |meta, key, value| chosen_topic(meta.topic(), key, value));
            }
            (None, None) => return Err("the recording does not tell which topics are chosen".to_owned()),
        }
        match op.get("ret") {
            Some(_) => self.set(op, Node::Stream(stream)),
            None => Ok(()),
        }
    }

    fn finish_branches(&mut self, op: &Value) -> Step {
        let topic = self.input_topic.clone();
        let stream = self.stream_of(&topic);
        let functions: [Function; 5] =
            std::mem::take(&mut self.branches).try_into().map_err(|_| "five branches expected".to_owned())?;
        let [a, b, c, d, e] = functions.map(|holds| {
            when(move |key: &Datum, value: &Datum| holds.holds(&args(key, value.clone(), Datum::Null)))
        });
        let [bar, _consumed, _dropped, negative, sevens, rest] = stream.branch([a, b, c, d, e, otherwise()]);
        let names = op.get("ret").and_then(Value::as_object).ok_or("branches without names")?;
        let streams = [("foo-bar", bar), ("foo-4", negative), ("foo-5", sevens), ("foo-0", rest)];
        for (name, stream) in streams {
            let to = names.get(name).and_then(Value::as_str).ok_or("branch without a name")?;
            self.nodes.insert(to.to_owned(), Node::Stream(stream));
        }
        Ok(())
    }
}
