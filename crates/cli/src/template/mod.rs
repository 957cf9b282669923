//! `--format`: Go's text/template as far as people use it on containers, run over the engine's JSON.
//!
//! Docker runs templates over Go structs, and three things follow that a general template engine over maps lacks: fields keep their order in
//! `json`, a missing field is an error while a missing label is `<no value>`, and rows of lists have methods (`.Label "x"`). Hence an own
//! evaluator, which knows the names of the model's maps.

mod eval;
mod functions;
mod parse;

use serde_json::Value;

/// Answers `.Label "name"`.
pub type Labels<'a> = &'a dyn Fn(&str) -> String;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Parses; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, anyhow::Error> {
        let nodes = parse::parse(text).map_err(|reason| anyhow::anyhow!("template parsing error: {reason}"))?;
        Ok(Self { nodes })
    }

    /// Runs over one document.
    pub fn run(&self, data: &Value) -> Result<String, anyhow::Error> {
        self.run_with_labels(data, None)
    }

    /// Runs over one row of a list, whose labels answer `.Label "name"`.
    pub fn run_with_labels(&self, data: &Value, labels: Option<Labels<'_>>) -> Result<String, anyhow::Error> {
        eval::run(&self.nodes, data, labels).map_err(|reason| anyhow::anyhow!("template: {reason}"))
    }

    /// The fields of the row that the template mentions, in order: the columns of a table.
    pub fn fields(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect_fields(&self.nodes, &mut found);
        found
    }

    /// Whether the template mentions a field of the row.
    pub fn mentions(&self, field: &str) -> bool {
        self.fields().iter().any(|name| name == field)
    }
}

fn collect_fields(nodes: &[parse::Node], found: &mut Vec<String>) {
    use parse::Node;
    for node in nodes {
        match node {
            Node::Text(_) | Node::Break | Node::Continue => {}
            Node::Action(pipeline) => pipeline_fields(pipeline, found),
            Node::If(arms, otherwise) => {
                for (condition, body) in arms {
                    pipeline_fields(condition, found);
                    collect_fields(body, found);
                }
                collect_fields(otherwise, found);
            }
            Node::With(pipeline, body, otherwise) | Node::Range(pipeline, body, otherwise) => {
                pipeline_fields(pipeline, found);
                collect_fields(body, found);
                collect_fields(otherwise, found);
            }
        }
    }
}

fn pipeline_fields(pipeline: &parse::Pipeline, found: &mut Vec<String>) {
    for operand in pipeline.commands.iter().flatten() {
        match operand {
            parse::Operand::Field(names) | parse::Operand::Variable(_, names) => found.extend(names.first().cloned()),
            parse::Operand::Group(inner, _) => pipeline_fields(inner, found),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container() -> Value {
        json!({
            "Id": "abc", "Name": "/web", "RestartCount": 2,
            "State": {"Status": "running", "Running": true, "ExitCode": 0, "Pid": 42},
            "Config": {"Labels": {"a.b": "v", "l": "m"}, "Env": ["A=1", "B=2"], "Entrypoint": null, "Volumes": null, "Cmd": ["x", "<y>"]},
            "HostConfig": {"Memory": 67108864, "CpuShares": 512, "CpusetCpus": "0", "PidsLimit": null, "MemorySwappiness": null},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}, "z": {"IPAddress": "10.0.0.1"}},
                                "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}},
            "Mounts": [{"Type": "bind", "RW": true}],
        })
    }

    fn run(text: &str) -> String {
        Template::parse(text).and_then(|template| template.run(&container())).unwrap_or_else(|error| format!("ERROR {error}"))
    }

    #[test]
    fn what_people_ask_of_inspect() {
        for (text, shown) in [
            ("{{.State.Running}}", "true"),
            ("{{.Id}} {{.ID}}", "abc abc"),
            ("{{.HostConfig.Memory}} {{.HostConfig.CpuShares}} {{.HostConfig.CpusetCpus}}", "67108864 512 0"),
            ("{{index .Config.Labels \"a.b\"}}", "v"),
            ("{{.Config.Labels.l}}", "m"),
            ("{{json .Config.Env}}", "[\"A=1\",\"B=2\"]"),
            ("{{json .Config.Cmd}}", "[\"x\",\"\\u003cy\\u003e\"]"),
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "172.17.0.2 10.0.0.1 "),
            ("{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}};{{end}}", "bridge=172.17.0.2;z=10.0.0.1;"),
            ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8080"),
            ("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[a.b:v l:m]"),
            ("{{.Config.Entrypoint}} {{.Config.Volumes}} {{.HostConfig.PidsLimit}}", "[] map[] <nil>"),
            ("{{if .State.Health}}h{{else}}none{{end}}", "none"),
            ("{{.Config.Labels.missing}}", "<no value>"),
            ("[{{index .Config.Labels \"missing\"}}]", "[]"),
            ("{{len .Mounts}} {{(index .Mounts 0).Type}}", "1 bind"),
            ("{{with .State}}{{.Pid}}{{end}}{{$.Name}}", "42/web"),
            ("{{range $i, $e := .Config.Env}}{{if $i}},{{end}}{{$e}}{{end}}", "A=1,B=2"),
            ("{{range .Nothing}}{{else}}{{end}}", "ERROR template: at <.Nothing>: no such field"),
            ("{{.State.Nope}}", "ERROR template: at <.State.Nope>: no such field"),
        ] {
            assert_eq!(run(text), shown, "{text}");
        }
    }

    #[test]
    fn functions_and_control_flow() {
        for (text, shown) in [
            ("{{upper .Name}} {{lower \"ABC\"}} {{title \"word\"}}", "/WEB abc Word"),
            ("{{join (split \"a,b,c\" \",\") \"-\"}}", "a-b-c"),
            ("{{pad \"x\" 1 2}}|{{truncate \"abcdef\" 3}}", " x  |abc"),
            ("{{printf \"%s-%05d-%q-%v-%t-%.2f-%x%%\" .Name 42 \"q\" .RestartCount true 1.5 255}}", "/web-00042-\"q\"-2-true-1.50-ff%"),
            ("{{println .Name 1}}", "/web 1\n"),
            ("{{print \"a\" \"b\" 1 2}}", "ab1 2"),
            ("{{if and (eq .RestartCount 2) (not .State.ExitCode)}}yes{{end}}", "yes"),
            ("{{if eq .Name \"x\" \"/web\"}}1{{else if true}}2{{else}}3{{end}}", "1"),
            ("{{if lt 1 2}}lt{{end}}{{if ge 2.5 2.5}}ge{{end}}{{if ne \"a\" \"b\"}}ne{{end}}", "ltgene"),
            ("{{ .Name | upper | printf \"%s!\" }}", "/WEB!"),
            ("{{$x := 1}}{{range .Config.Env}}{{$x = .}}{{end}}{{$x}}", "B=2"),
            ("a {{- /* note */ -}} b", "ab"),
            ("{{slice .Name 1}} {{slice .Name 0 2}}", "web /w"),
            ("{{range .Config.Env}}{{if eq . \"B=2\"}}{{break}}{{end}}{{.}}{{end}}", "A=1"),
            ("{{\"quoted\\t\" }}{{`raw\\t`}}", "quoted\traw\\t"),
            ("{{html \"<a>\"}} {{urlquery \"a b\"}}", "&lt;a&gt; a+b"),
            ("{{nope 1}}", "ERROR template: function \"nope\" not defined"),
        ] {
            assert_eq!(run(text), shown, "{text}");
        }
    }

    #[test]
    fn bad_templates_are_refused() {
        for text in [
            "{{",
            "{{.A",
            "{{end}}",
            "{{if .A}}",
            "{{range}}{{end}}",
            "{{.A)}}",
            "{{(.A}}",
            "{{\"x}}",
            "{{template \"x\"}}",
            "{{else}}",
            "{{1 | }}",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        assert!(Template::parse(&"{{if 1}}".repeat(500)).is_err());
        assert!(Template::parse(&format!("{{{{{}1{}}}}}", "(".repeat(500), ")".repeat(500))).is_err());
    }

    #[test]
    fn rows_have_labels_and_fields() {
        let template = Template::parse("{{.Names}}: {{.Label \"a\"}}{{.Label \"b\"}}").expect("parses");
        let label = |name: &str| if name == "a" { "1".to_owned() } else { String::new() };
        let text = template.run_with_labels(&json!({"Names": "n"}), Some(&label)).expect("runs");
        assert_eq!(text, "n: 1");
        assert!(template.mentions("Names") && !template.mentions("Size"));
    }
}
