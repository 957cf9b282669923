//! Lists: rows of named texts, shown as a table, by a template, or as JSON.

use anyhow::Result;
use serde_json::{Map, Value};

use crate::context::{Exit, print};
use crate::table;
use crate::template::Template;

/// One row: what templates can ask for.
#[derive(Debug, Default)]
pub struct Row {
    /// Column by name.
    pub fields: Map<String, Value>,
    /// What `.Label "name"` answers.
    pub labels: Option<Map<String, Value>>,
}

impl Row {
    /// A row of these columns.
    pub fn new<const N: usize>(fields: [(&str, String); N]) -> Self {
        Self { fields: fields.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect(), labels: None }
    }
}

/// How a list is to be shown.
pub struct Style {
    template: Template,
    table: bool,
    json: bool,
}

impl Style {
    /// From `--format`; `default` is what no format, and a bare `table`, mean.
    pub fn parse(format: Option<&str>, default: &str) -> Result<Self> {
        let format = match format.unwrap_or_default() {
            "" | "table" => default,
            other => other,
        };
        let (table, text) = format.strip_prefix("table ").map_or((false, format), |rest| (true, rest.trim_start()));
        let text = if text == "json" { "{{json .}}" } else { text };
        let template = Template::parse(&text.replace("\\t", "\t").replace("\\n", "\n"))?;
        Ok(Self { template, table, json: text == "{{json .}}" })
    }

    /// Whether a column is asked for; columns that cost the engine work are left out else.
    pub fn mentions(&self, field: &str) -> bool {
        self.json || self.template.mentions(field)
    }

    /// The text of all rows.
    pub fn render(&self, headers: &[(&str, &str)], rows: &[Row]) -> Result<String> {
        let mut text = String::new();
        if self.table {
            let names = headers.iter().map(|(name, title)| ((*name).to_owned(), Value::from(*title))).collect();
            text.push_str(&self.template.run_with_labels(&Value::Object(names), Some(&|name| name.to_owned()))?);
            text.push('\n');
        }
        for row in rows {
            let label = |name: &str| row.labels.as_ref().and_then(|labels| labels.get(name)?.as_str()).unwrap_or_default().to_owned();
            let mut fields = Value::Object(row.fields.clone());
            if self.json {
                fields.sort_all_objects();
            }
            text.push_str(&self.template.run_with_labels(&fields, Some(&label))?);
            text.push('\n');
        }
        Ok(if self.table { table::align_text(&text) } else { text })
    }

    /// Prints all rows.
    pub fn print(&self, headers: &[(&str, &str)], rows: &[Row]) -> Result<()> {
        print(&self.render(headers, rows)?)
    }
}

/// `--filter key=value` flags as the API's JSON: `{"status":["exited"]}`; nothing when there are none.
pub fn filters(given: &[&str]) -> Result<Option<String>> {
    let mut map: Map<String, Value> = Map::new();
    for filter in given {
        let Some((key, value)) = filter.split_once('=') else {
            return Err(Exit::with(125, format!("invalid argument {filter:?} for \"--filter\" flag: expected KEY=VALUE")));
        };
        let values = map.entry(key.trim().to_lowercase()).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = values {
            values.push(Value::from(value.trim()));
        }
    }
    Ok((!map.is_empty()).then(|| Value::Object(map).to_string()))
}

/// Labels as `a=b,c=d`.
pub fn join_labels(labels: Option<&Map<String, Value>>) -> String {
    let mut pairs: Vec<String> =
        labels.into_iter().flatten().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort_unstable();
    pairs.join(",")
}

/// The text at a path of a document; empty when there is none.
pub fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at a path of a document; 0 when there is none.
pub fn int(document: &Value, pointer: &str) -> i64 {
    document.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The short form of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let plain = id.split_once(':').map_or(id, |(_, digits)| digits);
    plain.get(..12).unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(format: Option<&str>) -> String {
        let mut row = Row::new([("Name", "one".to_owned()), ("Driver", "local".to_owned())]);
        row.labels = serde_json::json!({"k": "v"}).as_object().cloned();
        Style::parse(format, "table {{.Driver}}\t{{.Name}}")
            .and_then(|style| style.render(&[("Name", "VOLUME NAME"), ("Driver", "DRIVER")], &[row]))
            .expect("renders")
    }

    #[test]
    fn lists_are_tables_templates_or_json() {
        assert_eq!(shown(None), "DRIVER    VOLUME NAME\nlocal     one\n");
        assert_eq!(shown(Some("table {{.Name}}\\t{{.Label \"k\"}}")), "VOLUME NAME   k\none           v\n");
        assert_eq!(shown(Some("{{.Name}}/{{.Label \"x\"}}")), "one/\n");
        assert_eq!(shown(Some("json")), "{\"Driver\":\"local\",\"Name\":\"one\"}\n");
    }

    #[test]
    fn filters_become_a_map_of_lists() {
        assert_eq!(
            filters(&["status=exited", "Status=created", "label=a=b"]).expect("valid").as_deref(),
            Some("{\"status\":[\"exited\",\"created\"],\"label\":[\"a=b\"]}")
        );
        assert_eq!(filters(&[]).expect("valid"), None);
        assert!(filters(&["x"]).is_err());
    }
}
