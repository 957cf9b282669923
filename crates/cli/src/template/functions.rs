//! The functions that templates may call: Go's own and Docker's.

use std::cmp::Ordering;

use serde_json::Value;

use super::eval::{Kind, Val, element};

type Answer<'a> = Result<Val<'a>, String>;

/// Widths beyond this are refused: they only fill memory.
const WIDTH_MAX: usize = 10_000;

/// Calls a function by name.
pub fn call<'a>(name: &str, arguments: &[Val<'a>]) -> Answer<'a> {
    let text = |at: usize| arguments.get(at).map(Val::show).ok_or_else(|| format!("wrong number of args for {name}"));
    let number =
        |at: usize| arguments.get(at).and_then(|value| value.json.as_i64()).ok_or_else(|| format!("{name} expects a whole number"));
    let width = |at: usize| {
        number(at).and_then(|n| usize::try_from(n).ok().filter(|n| *n <= WIDTH_MAX).ok_or_else(|| format!("{name}: {n} is out of range")))
    };
    let string = |text: String| Ok(Val::new(Value::from(text)));
    let truth = |set: bool| Ok(Val::new(Value::from(set)));
    match name {
        "json" => arguments.first().map_or_else(|| Err("json expects a value".to_owned()), |value| string(json(&value.json))),
        "lower" => string(text(0)?.to_lowercase()),
        "upper" => string(text(0)?.to_uppercase()),
        "title" => string(title(&text(0)?)),
        "split" => Ok(Val::new(Value::from(text(0)?.split(&text(1)?).map(str::to_owned).collect::<Vec<_>>()))),
        "join" => match arguments.first().map(|value| value.json.as_ref()) {
            Some(Value::Array(list)) => string(list.iter().map(|item| Val::new(item.clone()).show()).collect::<Vec<_>>().join(&text(1)?)),
            Some(Value::Null) => string(String::new()),
            _ => Err("join expects a list and a separator".to_owned()),
        },
        "pad" => {
            let inner = text(0)?;
            string(if inner.is_empty() { inner } else { format!("{}{inner}{}", " ".repeat(width(1)?), " ".repeat(width(2)?)) })
        }
        "truncate" => string(text(0)?.chars().take(width(1)?).collect()),
        "print" => string(print(arguments)),
        "println" => string(arguments.iter().map(Val::show).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => string(printf(&text(0)?, arguments.get(1..).unwrap_or_default())),
        "html" => {
            string(text(0)?.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;"))
        }
        "urlquery" => string(client::encode(&text(0)?).replace('/', "%2F").replace(':', "%3A").replace('@', "%40").replace("%20", "+")),
        "len" => length(arguments.first()),
        "index" => index(arguments),
        "slice" => slice(arguments),
        "not" => truth(!arguments.first().ok_or("not expects a value")?.truth()),
        "eq" => {
            let (first, rest) = arguments.split_first().ok_or("eq expects two values")?;
            truth(rest.iter().any(|other| equal(first, other)))
        }
        "ne" => truth(!matches!(arguments, [a, b] if equal(a, b))),
        "lt" => truth(compare(arguments)? == Ordering::Less),
        "le" => truth(compare(arguments)? != Ordering::Greater),
        "gt" => truth(compare(arguments)? == Ordering::Greater),
        "ge" => truth(compare(arguments)? != Ordering::Less),
        _ => Err(format!("function {name:?} not defined")),
    }
}

/// JSON as Go writes it: `<`, `>` and `&` as escapes.
pub fn json(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn title(text: &str) -> String {
    let mut at_start = true;
    let letters = text.chars().flat_map(|letter| {
        let out: Vec<char> = if at_start { letter.to_uppercase().collect() } else { vec![letter] };
        at_start = !letter.is_alphanumeric() && letter != '_' && letter != '\'';
        out
    });
    letters.collect()
}

/// Go's Print: a space between two neighbours of which neither is a text.
fn print(arguments: &[Val<'_>]) -> String {
    let mut out = String::new();
    for (at, value) in arguments.iter().enumerate() {
        if at > 0 && !value.json.is_string() && !arguments[at - 1].json.is_string() {
            out.push(' ');
        }
        out.push_str(&value.show());
    }
    out
}

fn length<'a>(value: Option<&Val<'_>>) -> Answer<'a> {
    let count = match value.map(|value| value.json.as_ref()) {
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        Some(Value::String(text)) => text.len(),
        Some(Value::Null) => 0,
        _ => return Err("len of a value that has none".to_owned()),
    };
    Ok(Val::new(Value::from(count)))
}

fn index<'a>(arguments: &[Val<'a>]) -> Answer<'a> {
    let (first, keys) = arguments.split_first().ok_or("index expects a value")?;
    let mut value = first.clone();
    for key in keys {
        value = match (value.json.as_ref(), key.json.as_ref()) {
            (Value::Array(list), Value::Number(at)) => {
                let at = at.as_u64().and_then(|at| usize::try_from(at).ok());
                at.and_then(|at| element(&value, at))
                    .ok_or_else(|| format!("error calling index: index out of range: {}, length {}", key.show(), list.len()))?
            }
            (Value::Object(_), Value::String(name)) => {
                let map = Val { json: value.json.clone(), kind: Kind::Map };
                let found = map.field(name).unwrap_or_else(Val::no_value);
                // An absent key gives the zero value of the map's values, which are texts in nearly all of the model.
                if found.kind == Kind::NoValue { Val::new(Value::from("")) } else { found }
            }
            (Value::Null, Value::String(_)) => Val::new(Value::from("")),
            (Value::Null, _) => return Err(format!("error calling index: index out of range: {}, length 0", key.show())),
            _ => return Err(format!("error calling index: cannot index {} with {}", value.show(), key.show())),
        };
    }
    Ok(value)
}

fn slice<'a>(arguments: &[Val<'a>]) -> Answer<'a> {
    let (value, bounds) = arguments.split_first().ok_or("slice expects a value")?;
    let bound = |at: usize, otherwise: usize| match bounds.get(at) {
        Some(bound) => bound.json.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| "slice expects whole numbers".to_owned()),
        None => Ok(otherwise),
    };
    let out_of_range = || "error calling slice: index out of range".to_owned();
    match value.json.as_ref() {
        Value::String(text) => {
            text.get(bound(0, 0)?..bound(1, text.len())?).map(|part| Val::new(Value::from(part))).ok_or_else(out_of_range)
        }
        Value::Array(list) => {
            list.get(bound(0, 0)?..bound(1, list.len())?).map(|part| Val::new(Value::from(part))).ok_or_else(out_of_range)
        }
        _ => Err("slice of a value that is neither text nor list".to_owned()),
    }
}

fn equal(a: &Val<'_>, b: &Val<'_>) -> bool {
    match (a.json.as_ref(), b.json.as_ref()) {
        (Value::Number(x), Value::Number(y)) => x.as_f64() == y.as_f64(),
        (x, y) => x == y,
    }
}

fn compare(arguments: &[Val<'_>]) -> Result<Ordering, String> {
    let [a, b] = arguments else { return Err("a comparison expects two values".to_owned()) };
    match (a.json.as_ref(), b.json.as_ref()) {
        (Value::Number(x), Value::Number(y)) => x.as_f64().partial_cmp(&y.as_f64()).ok_or_else(|| "not comparable".to_owned()),
        (Value::String(x), Value::String(y)) => Ok(x.cmp(y)),
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

/// Go's Printf for the verbs that make sense on JSON, with flags, width and precision.
fn printf(format: &str, arguments: &[Val<'_>]) -> String {
    let mut out = String::new();
    let mut next = arguments.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !matches!(c, '-' | '+' | ' ' | '#' | '0'..='9' | '.'));
        let Some((end, verb)) = end.and_then(|end| Some((end, rest[end..].chars().next()?))) else {
            out.push_str("%!(NOVERB)");
            return out;
        };
        let directive = &rest[..end];
        rest = &rest[end + verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        match next.next() {
            Some(value) => out.push_str(&padded(directive, verb, value)),
            None => out.push_str(&format!("%!{verb}(MISSING)")),
        }
    }
    out.push_str(rest);
    let extra: Vec<String> = next.map(Val::show).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn padded(directive: &str, verb: char, value: &Val<'_>) -> String {
    let flags_end = directive.find(|c| matches!(c, '1'..='9' | '.')).unwrap_or(directive.len());
    let (flags, numbers) = directive.split_at(flags_end);
    let (width, precision) = numbers.split_once('.').map_or((numbers, None), |(width, precision)| (width, Some(precision)));
    let width = width.parse::<usize>().unwrap_or(0).min(WIDTH_MAX);
    let precision = precision.map(|text| text.parse::<usize>().unwrap_or(0).min(WIDTH_MAX));
    let integer = value.json.as_i64();
    let text = match (verb, integer, value.json.as_f64()) {
        ('d', Some(n), _) if flags.contains('+') => format!("{n:+}"),
        ('d', Some(n), _) => n.to_string(),
        ('x', Some(n), _) => format!("{n:x}"),
        ('X', Some(n), _) => format!("{n:X}"),
        ('o', Some(n), _) => format!("{n:o}"),
        ('f' | 'F', None, Some(n)) => format!("{n:.*}", precision.unwrap_or(6)),
        ('q', _, _) if value.json.is_string() => json(&value.json),
        ('s' | 'v' | 't' | 'q', _, _) => match precision {
            Some(precision) => value.show().chars().take(precision).collect(),
            None => value.show(),
        },
        _ => format!("%!{verb}({})", value.show()),
    };
    let fill = width.saturating_sub(text.chars().count());
    if flags.contains('-') {
        format!("{text}{}", " ".repeat(fill))
    } else if flags.contains('0') && integer.is_some() {
        let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
        format!("{sign}{}{digits}", "0".repeat(fill))
    } else {
        format!("{}{text}", " ".repeat(fill))
    }
}
