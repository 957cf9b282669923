//! Running a parsed template over JSON.

use std::borrow::Cow;

use serde_json::Value;

use super::parse::{Node, Operand, Pipeline};
use super::{Labels, functions};

/// A value on its way through a template.
#[derive(Debug, Clone)]
pub struct Val<'a> {
    /// The document; `Value::Null` where there is none.
    pub json: Cow<'a, Value>,
    /// What it would be in Go, which JSON does not tell.
    pub kind: Kind,
}

/// What an object or a null stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A struct's field, or anything that speaks for itself; null is an empty list.
    Plain,
    /// A map: any key may be asked for; null is an empty map.
    Map,
    /// A pointer; null is nil.
    Pointer,
    /// The value of a key that a map lacks.
    NoValue,
}

/// Fields of the model that are maps.
const MAPS: &[&str] = &[
    "Labels",
    "Networks",
    "Ports",
    "PortBindings",
    "ExposedPorts",
    "Volumes",
    "Sysctls",
    "Tmpfs",
    "Options",
    "DriverOpts",
    "Annotations",
    "Data",
    "StorageOpt",
    "Status",
    "Runtimes",
    "IndexConfigs",
    "AuxiliaryAddresses",
    "Containers",
    "Details",
];
/// Fields of the model that are pointers, or are left out when unset.
const POINTERS: &[&str] = &[
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "MemorySwappiness",
    "PidsLimit",
    "Init",
    "OomKillDisable",
    "StopTimeout",
    "UsageData",
    "BindOptions",
    "VolumeOptions",
    "TmpfsOptions",
    "SizeRw",
    "SizeRootFs",
    "ImageManifestDescriptor",
    "Descriptor",
];
/// Lists and maps that engines leave out when they are empty.
const LEFT_OUT: &[&str] =
    &["Annotations", "Sysctls", "Tmpfs", "Mounts", "StorageOpt", "OnBuild", "Shell", "Volumes", "ExposedPorts", "Options"];
/// Texts that engines leave out when they are empty.
const LEFT_OUT_TEXTS: &[&str] = &["StopSignal", "MacAddress", "Comment", "Author", "DockerVersion", "Variant", "Runtime"];

const OUTPUT_BYTES_MAX: usize = 256 << 20;

enum Flow {
    Next,
    Break,
    Continue,
}

struct Run<'a> {
    out: String,
    labels: Option<Labels<'a>>,
    variables: Vec<(String, Val<'a>)>,
}

/// Runs the nodes over `data`.
pub fn run<'a>(nodes: &[Node], data: &'a Value, labels: Option<Labels<'a>>) -> Result<String, String> {
    let root = Val::of(data);
    let mut run = Run { out: String::new(), labels, variables: vec![(String::new(), root.clone())] };
    run.nodes(nodes, &root)?;
    Ok(run.out)
}

impl<'a> Val<'a> {
    fn of(json: &'a Value) -> Self {
        Self { json: Cow::Borrowed(json), kind: Kind::Plain }
    }

    /// A value made by a function.
    pub fn new(json: Value) -> Self {
        Self { json: Cow::Owned(json), kind: Kind::Plain }
    }

    /// Go's notion of truth: not zero, not empty, not nil.
    pub fn truth(&self) -> bool {
        match self.json.as_ref() {
            Value::Null => false,
            Value::Bool(set) => *set,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            // A struct is always true, a map when it has something.
            Value::Object(map) => !map.is_empty() || self.kind != Kind::Map,
        }
    }

    /// The member called `name`, `None` where a struct has no such field.
    pub fn field(&self, name: &str) -> Option<Self> {
        // A log driver's options are the one map of this name; elsewhere it is a struct.
        let options = name == "Config" && self.json.get("Type").is_some();
        let kind = if options || MAPS.contains(&name) {
            Kind::Map
        } else if POINTERS.contains(&name) {
            Kind::Pointer
        } else {
            Kind::Plain
        };
        let Value::Object(map) = self.json.as_ref() else {
            return (self.json.is_null() && self.kind == Kind::Map).then(Self::no_value);
        };
        if self.kind == Kind::Map {
            return Some(if map.contains_key(name) { self.member(name, Kind::Plain) } else { Self::no_value() });
        }
        if map.contains_key(name) {
            return Some(self.member(name, kind));
        }
        // Go's names of fields differ from JSON's in case: ID and Id.
        if let Some(alias) = map.keys().find(|key| key.eq_ignore_ascii_case(name)) {
            return Some(self.member(alias, kind));
        }
        if LEFT_OUT_TEXTS.contains(&name) {
            return Some(Self::new(Value::String(String::new())));
        }
        (kind == Kind::Pointer || LEFT_OUT.contains(&name)).then_some(Self { json: Cow::Owned(Value::Null), kind })
    }

    fn member(&self, name: &str, kind: Kind) -> Self {
        let json = match &self.json {
            Cow::Borrowed(value) => value.get(name).map(Cow::Borrowed),
            Cow::Owned(value) => value.get(name).cloned().map(Cow::Owned),
        };
        Self { json: json.unwrap_or(Cow::Owned(Value::Null)), kind }
    }

    /// The value that stands for an absent key.
    pub fn no_value() -> Self {
        Self { json: Cow::Owned(Value::Null), kind: Kind::NoValue }
    }

    /// As Go's `%v` shows it.
    pub fn show(&self) -> String {
        match (self.json.as_ref(), self.kind) {
            (Value::Null, Kind::NoValue) => "<no value>".to_owned(),
            (Value::Null, Kind::Pointer) => "<nil>".to_owned(),
            (Value::Null, Kind::Map) => "map[]".to_owned(),
            (Value::Null, Kind::Plain) => "[]".to_owned(),
            (Value::Bool(set), _) => set.to_string(),
            (Value::Number(number), _) => number.to_string(),
            (Value::String(text), _) => text.clone(),
            (Value::Array(list), _) => {
                let shown: Vec<String> = list.iter().map(|item| Val::of(item).show()).collect();
                format!("[{}]", shown.join(" "))
            }
            (Value::Object(map), Kind::Map) => {
                let mut shown: Vec<String> = map.iter().map(|(key, item)| format!("{key}:{}", Val::of(item).show())).collect();
                shown.sort_unstable();
                format!("map[{}]", shown.join(" "))
            }
            (Value::Object(map), _) => {
                let shown: Vec<String> = map.keys().filter_map(|key| self.field(key)).map(|field| field.show()).collect();
                format!("{{{}}}", shown.join(" "))
            }
        }
    }
}

impl<'a> Run<'a> {
    fn nodes(&mut self, nodes: &[Node], dot: &Val<'a>) -> Result<Flow, String> {
        for node in nodes {
            if self.out.len() > OUTPUT_BYTES_MAX {
                return Err("the output is too long".to_owned());
            }
            let mark = self.variables.len();
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::Next
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.out.push_str(&value.show());
                    } else {
                        self.assign(pipeline, &value)?;
                    }
                    continue;
                }
                Node::If(arms, otherwise) => self.branch(arms, otherwise, dot)?,
                Node::With(pipeline, body, otherwise) => {
                    let value = self.pipeline(pipeline, dot)?;
                    self.assign(pipeline, &value)?;
                    if value.truth() { self.nodes(body, &value)? } else { self.nodes(otherwise, dot)? }
                }
                Node::Range(pipeline, body, otherwise) => self.range(pipeline, body, otherwise, dot)?,
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
            };
            self.variables.truncate(mark);
            if !matches!(flow, Flow::Next) {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn branch(&mut self, arms: &[(Pipeline, Vec<Node>)], otherwise: &[Node], dot: &Val<'a>) -> Result<Flow, String> {
        for (condition, body) in arms {
            let value = self.pipeline(condition, dot)?;
            self.assign(condition, &value)?;
            if value.truth() {
                return self.nodes(body, dot);
            }
        }
        self.nodes(otherwise, dot)
    }

    fn range(&mut self, pipeline: &Pipeline, body: &[Node], otherwise: &[Node], dot: &Val<'a>) -> Result<Flow, String> {
        let value = self.pipeline(pipeline, dot)?;
        let items: Vec<(Value, Val<'a>)> = match value.json.as_ref() {
            Value::Array(list) => (0..list.len()).filter_map(|at| Some((Value::from(at), element(&value, at)?))).collect(),
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort_unstable();
                keys.into_iter().map(|key| (Value::from(key.as_str()), value.member(key, Kind::Plain))).collect()
            }
            Value::Number(count) => (0..count.as_u64().unwrap_or(0)).map(|n| (Value::from(n), Val::new(Value::from(n)))).collect(),
            Value::Null => Vec::new(),
            _ => return Err(format!("range can't iterate over {}", value.show())),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        let mark = self.variables.len();
        for (key, item) in items {
            match pipeline.variables.as_slice() {
                [] => {}
                [only] => self.set(only, pipeline.declares, item.clone())?,
                [first, second, ..] => {
                    self.set(first, pipeline.declares, Val::new(key))?;
                    self.set(second, pipeline.declares, item.clone())?;
                }
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(mark);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn assign(&mut self, pipeline: &Pipeline, value: &Val<'a>) -> Result<(), String> {
        pipeline.variables.iter().try_for_each(|name| self.set(name, pipeline.declares, value.clone()))
    }

    fn set(&mut self, name: &str, declares: bool, value: Val<'a>) -> Result<(), String> {
        if declares {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let slot = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        slot.map(|(_, old)| *old = value).ok_or_else(|| format!("undefined variable \"${name}\""))
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Val<'a>) -> Result<Val<'a>, String> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        value.ok_or_else(|| "missing value for command".to_owned())
    }

    fn command(&mut self, operands: &[Operand], dot: &Val<'a>, piped: Option<Val<'a>>) -> Result<Val<'a>, String> {
        let Some((first, rest)) = operands.split_first() else { return Err("missing value for command".to_owned()) };
        if let Operand::Function(name) = first {
            if let "and" | "or" = name.as_str() {
                return self.short_circuit(name == "or", rest, dot, piped);
            }
            let mut arguments = rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
            arguments.extend(piped);
            return functions::call(name, &arguments);
        }
        if let (Operand::Field(names), Some(labels)) = (first, self.labels)
            && names.len() == 1
            && names[0] == "Label"
        {
            let mut arguments = rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
            arguments.extend(piped);
            let [name] = arguments.as_slice() else { return Err(".Label takes the name of one label".to_owned()) };
            return Ok(Val::new(Value::from(labels(&name.show()))));
        }
        if !rest.is_empty() || piped.is_some() {
            return Err("can't give argument to non-function".to_owned());
        }
        self.operand(first, dot)
    }

    fn short_circuit(&mut self, stop_at: bool, operands: &[Operand], dot: &Val<'a>, piped: Option<Val<'a>>) -> Result<Val<'a>, String> {
        let mut last = None;
        for operand in operands {
            let value = self.operand(operand, dot)?;
            if value.truth() == stop_at {
                return Ok(value);
            }
            last = Some(value);
        }
        piped.or(last).ok_or_else(|| "and, or: missing arguments".to_owned())
    }

    fn operand(&mut self, operand: &Operand, dot: &Val<'a>) -> Result<Val<'a>, String> {
        Ok(match operand {
            Operand::Field(names) => descend(dot.clone(), names)?,
            Operand::Variable(name, names) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
                descend(found.ok_or_else(|| format!("undefined variable \"${name}\""))?, names)?
            }
            Operand::Group(pipeline, names) => descend(self.pipeline(pipeline, dot)?, names)?,
            Operand::Function(name) => functions::call(name, &[])?,
            Operand::Text(text) => Val::new(Value::from(text.as_str())),
            Operand::Int(number) => Val::new(Value::from(*number)),
            Operand::Float(number) => Val::new(Value::from(*number)),
            Operand::Bool(set) => Val::new(Value::from(*set)),
            Operand::Nil => Val { json: Cow::Owned(Value::Null), kind: Kind::Pointer },
        })
    }
}

/// The element of a list, borrowed where the list is.
pub fn element<'a>(list: &Val<'a>, at: usize) -> Option<Val<'a>> {
    let json = match &list.json {
        Cow::Borrowed(value) => Cow::Borrowed(value.get(at)?),
        Cow::Owned(value) => Cow::Owned(value.get(at)?.clone()),
    };
    Some(Val { json, kind: Kind::Plain })
}

fn descend<'a>(mut value: Val<'a>, names: &[String]) -> Result<Val<'a>, String> {
    for name in names {
        let absent = || format!("at <.{}>: no such field", names.join("."));
        if value.json.is_null() && value.kind == Kind::Pointer {
            return Err(format!("at <.{}>: nil pointer evaluating .{name}", names.join(".")));
        }
        value = value.field(name).ok_or_else(absent)?;
    }
    Ok(value)
}
