//! From the text of a template to its tree: Go's text/template syntax without named templates.

/// Piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Text(String),
    /// Prints the value, unless it declares a variable.
    Action(Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    Break,
    Continue,
}

/// Commands joined by `|`; each takes the value of the one before as its last argument.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// Variables that get the value; two for the key and value of `range`.
    pub variables: Vec<String>,
    /// `:=` rather than `=`.
    pub declares: bool,
    pub commands: Vec<Vec<Operand>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// `.` or `.A.B`.
    Field(Vec<String>),
    /// `$x` or `$x.A`; the empty name is `$`, the data given at first.
    Variable(String, Vec<String>),
    /// A function's name.
    Function(String),
    /// `(…)` or `(…).A`.
    Group(Box<Pipeline>, Vec<String>),
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Nil,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Word(String),
    Text(String),
    Int(i64),
    Float(f64),
    Open,
    /// With the fields that follow it immediately.
    Close(Vec<String>),
    Pipe,
    Declare,
    Assign,
    Comma,
}

/// Nested blocks and parentheses beyond this are refused, so that hostile text cannot exhaust the stack.
const DEPTH_MAX: usize = 100;

/// Parses a whole template; the error says what is wrong.
pub fn parse(text: &str) -> Result<Vec<Node>, String> {
    let pieces = split(text)?;
    let mut parser = Parser { pieces: pieces.into_iter().peekable(), depth: 0 };
    let (nodes, end) = parser.block()?;
    match end {
        None => Ok(nodes),
        Some(keyword) => Err(format!("unexpected {{{{{keyword}}}}}")),
    }
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// Cuts the template at its `{{` and `}}`, trimming where `{{-` and `-}}` ask for it and dropping comments.
fn split(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    loop {
        let (before, after) = match rest.find("{{") {
            Some(at) => (&rest[..at], Some(&rest[at + 2..])),
            None => (rest, None),
        };
        let mut plain = if trim_next { before.trim_start() } else { before };
        let trims_before = after.is_some_and(|after| after.starts_with("- ") || after.starts_with("-\n") || after.starts_with("-\t"));
        if trims_before {
            plain = plain.trim_end();
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.to_owned()));
        }
        let Some(after) = after else { return Ok(pieces) };
        let inside = if trims_before { &after[1..] } else { after };
        if let Some(comment) = inside.trim_start().strip_prefix("/*") {
            let (_, tail) = comment.split_once("*/").ok_or("unclosed comment")?;
            let tail = tail.trim_start();
            trim_next = tail.starts_with("-}}");
            rest = tail.strip_prefix("-}}").or_else(|| tail.strip_prefix("}}")).ok_or("comment ends before closing delimiter")?;
            continue;
        }
        let (tokens, tail, trims_after) = lex(inside)?;
        pieces.push(Piece::Action(tokens));
        trim_next = trims_after;
        rest = tail;
    }
}

/// Reads the tokens of an action up to its `}}`.
fn lex(text: &str) -> Result<(Vec<Token>, &str, bool), String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start();
        let had_space = trimmed.len() != rest.len();
        rest = trimmed;
        if let Some(tail) = rest.strip_prefix("}}") {
            return Ok((tokens, tail, false));
        }
        if had_space && let Some(tail) = rest.strip_prefix("-}}") {
            return Ok((tokens, tail, true));
        }
        let Some(first) = rest.chars().next() else { return Err("unclosed action".to_owned()) };
        let token = match first {
            '"' | '`' | '\'' => quoted(&mut rest, first)?,
            '(' => one(&mut rest, Token::Open),
            ')' => {
                rest = &rest[1..];
                Token::Close(fields(&mut rest)?)
            }
            '|' => one(&mut rest, Token::Pipe),
            ',' => one(&mut rest, Token::Comma),
            '=' => one(&mut rest, Token::Assign),
            ':' if rest.starts_with(":=") => {
                rest = &rest[2..];
                Token::Declare
            }
            '$' => {
                rest = &rest[1..];
                let name = name(&mut rest);
                Token::Variable(name, fields(&mut rest)?)
            }
            '.' if rest[1..].starts_with(|c: char| c.is_alphabetic() || c == '_') => Token::Field(fields(&mut rest)?),
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => one(&mut rest, Token::Field(Vec::new())),
            _ if first.is_ascii_digit() || matches!(first, '.' | '-' | '+') => number(&mut rest)?,
            _ if first.is_alphabetic() || first == '_' => Token::Word(name(&mut rest)),
            other => return Err(format!("unexpected {other:?} in action")),
        };
        tokens.push(token);
    }
}

fn one(rest: &mut &str, token: Token) -> Token {
    *rest = &rest[1..];
    token
}

fn name(rest: &mut &str) -> String {
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, tail) = rest.split_at(end);
    *rest = tail;
    name.to_owned()
}

/// `.A.B`, as many as follow without a space.
fn fields(rest: &mut &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    while let Some(tail) = rest.strip_prefix('.') {
        *rest = tail;
        let field = name(rest);
        if field.is_empty() {
            return Err("a field's name is missing after '.'".to_owned());
        }
        names.push(field);
    }
    Ok(names)
}

fn number(rest: &mut &str) -> Result<Token, String> {
    let end = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | '-' | '+' | '_')).unwrap_or(rest.len());
    let (text, tail) = rest.split_at(end);
    *rest = tail;
    let plain = text.replace('_', "");
    let hex = plain.strip_prefix("0x").and_then(|digits| i64::from_str_radix(digits, 16).ok());
    if let Some(number) = hex.or_else(|| plain.parse().ok()) {
        return Ok(Token::Int(number));
    }
    plain.parse().map(Token::Float).map_err(|_| format!("bad number syntax: {text:?}"))
}

fn quoted(rest: &mut &str, quote: char) -> Result<Token, String> {
    let mut value = String::new();
    let mut letters = rest[1..].char_indices();
    while let Some((at, letter)) = letters.next() {
        if letter == quote {
            *rest = &rest[1 + at + 1..];
            return match quote {
                '\'' => {
                    value.chars().next().map(|c| Token::Int(i64::from(u32::from(c)))).ok_or_else(|| "empty character constant".to_owned())
                }
                _ => Ok(Token::Text(value)),
            };
        }
        if letter != '\\' || quote == '`' {
            value.push(letter);
            continue;
        }
        let escaped = letters.next().map(|(_, c)| c);
        value.push(match escaped {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some(c @ ('\\' | '"' | '\'')) => c,
            Some('x') => char::from(u8::try_from(code(&mut letters, 2)?).map_err(|_| "bad escape")?),
            Some('u') => char::from_u32(code(&mut letters, 4)?).ok_or("bad escape")?,
            _ => return Err("unknown escape in a quoted text".to_owned()),
        });
    }
    Err("unterminated quoted string".to_owned())
}

fn code(letters: &mut std::str::CharIndices<'_>, digits: usize) -> Result<u32, String> {
    let text: String = letters.by_ref().take(digits).map(|(_, c)| c).collect();
    u32::from_str_radix(&text, 16).map_err(|_| "bad escape".to_owned())
}

struct Parser {
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece>>,
    depth: usize,
}

impl Parser {
    /// Nodes up to the end or to an `end` or `else`, which is returned. An `else if` or `else with` leaves its tokens to the next call.
    fn block(&mut self) -> Result<(Vec<Node>, Option<String>), String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("blocks are nested too deeply".to_owned());
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let keyword = match tokens.first() {
                Some(Token::Word(word)) => word.as_str(),
                _ => "",
            };
            let node = match keyword {
                "end" => {
                    self.depth -= 1;
                    return Ok((nodes, Some("end".to_owned())));
                }
                "else" => {
                    self.depth -= 1;
                    if tokens.len() > 1 {
                        self.unread(tokens[1..].to_vec());
                        return Ok((nodes, Some("else if".to_owned())));
                    }
                    return Ok((nodes, Some("else".to_owned())));
                }
                "if" => self.conditional(&tokens[1..])?,
                "with" => {
                    let pipeline = pipeline(&tokens[1..])?;
                    let (body, otherwise) = self.body_and_else()?;
                    Node::With(pipeline, body, otherwise)
                }
                "range" => {
                    let pipeline = pipeline(&tokens[1..])?;
                    let (body, otherwise) = self.body_and_else()?;
                    Node::Range(pipeline, body, otherwise)
                }
                "break" => Node::Break,
                "continue" => Node::Continue,
                "define" | "template" | "block" => return Err(format!("{keyword:?} is not served: a format is one template")),
                _ => Node::Action(pipeline(&tokens)?),
            };
            nodes.push(node);
        }
        self.depth -= 1;
        Ok((nodes, None))
    }

    fn conditional(&mut self, tokens: &[Token]) -> Result<Node, String> {
        let mut arms = Vec::new();
        let mut condition = pipeline(tokens)?;
        loop {
            let (body, end) = self.block()?;
            arms.push((condition, body));
            match end.as_deref() {
                Some("end") => return Ok(Node::If(arms, Vec::new())),
                Some("else") => {
                    let (otherwise, end) = self.block()?;
                    return if end.as_deref() == Some("end") { Ok(Node::If(arms, otherwise)) } else { Err("expected {{end}}".to_owned()) };
                }
                Some("else if") => match self.pieces.next() {
                    Some(Piece::Action(tokens)) if tokens.first() == Some(&Token::Word("if".to_owned())) => {
                        condition = pipeline(&tokens[1..])?
                    }
                    _ => return Err("expected {{else}} or {{else if}}".to_owned()),
                },
                _ => return Err("unexpected end of the template: {{end}} is missing".to_owned()),
            }
        }
    }

    fn body_and_else(&mut self) -> Result<(Vec<Node>, Vec<Node>), String> {
        let (body, end) = self.block()?;
        match end.as_deref() {
            Some("end") => Ok((body, Vec::new())),
            Some("else") => {
                let (otherwise, end) = self.block()?;
                if end.as_deref() == Some("end") { Ok((body, otherwise)) } else { Err("expected {{end}}".to_owned()) }
            }
            _ => Err("unexpected end of the template: {{end}} is missing".to_owned()),
        }
    }

    fn unread(&mut self, tokens: Vec<Token>) {
        let rest: Vec<Piece> = std::iter::once(Piece::Action(tokens)).chain(self.pieces.by_ref()).collect();
        self.pieces = rest.into_iter().peekable();
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, String> {
    let assignment = tokens.iter().position(|token| matches!(token, Token::Declare | Token::Assign));
    let (variables, declares, rest) = match assignment {
        Some(at) => (variable_names(&tokens[..at])?, tokens[at] == Token::Declare, &tokens[at + 1..]),
        None => (Vec::new(), false, tokens),
    };
    let mut cursor = rest;
    let commands = commands(&mut cursor, 0)?;
    if !cursor.is_empty() {
        return Err("unexpected ')' in action".to_owned());
    }
    Ok(Pipeline { variables, declares, commands })
}

fn variable_names(tokens: &[Token]) -> Result<Vec<String>, String> {
    let names = tokens.split(|token| *token == Token::Comma).map(|part| match part {
        [Token::Variable(name, fields)] if fields.is_empty() => Ok(name.clone()),
        _ => Err("expected a variable before :=".to_owned()),
    });
    names.collect()
}

fn commands(cursor: &mut &[Token], depth: usize) -> Result<Vec<Vec<Operand>>, String> {
    if depth > DEPTH_MAX {
        return Err("parentheses are nested too deeply".to_owned());
    }
    let mut commands = vec![Vec::new()];
    while let Some((token, rest)) = cursor.split_first() {
        if matches!(token, Token::Close(_)) {
            break;
        }
        *cursor = rest;
        let operand = match token.clone() {
            Token::Pipe => {
                commands.push(Vec::new());
                continue;
            }
            Token::Open => {
                let inner = self::commands(cursor, depth + 1)?;
                let Some((Token::Close(fields), rest)) = cursor.split_first() else { return Err("unclosed left paren".to_owned()) };
                *cursor = rest;
                Operand::Group(Box::new(Pipeline { variables: Vec::new(), declares: false, commands: inner }), fields.clone())
            }
            Token::Field(fields) => Operand::Field(fields),
            Token::Variable(name, fields) => Operand::Variable(name, fields),
            Token::Text(text) => Operand::Text(text),
            Token::Int(number) => Operand::Int(number),
            Token::Float(number) => Operand::Float(number),
            Token::Word(word) => match word.as_str() {
                "true" => Operand::Bool(true),
                "false" => Operand::Bool(false),
                "nil" => Operand::Nil,
                _ => Operand::Function(word),
            },
            Token::Comma | Token::Declare | Token::Assign | Token::Close(_) => return Err("unexpected punctuation in action".to_owned()),
        };
        if let Some(command) = commands.last_mut() {
            command.push(operand);
        }
    }
    if commands.iter().any(Vec::is_empty) {
        return Err("missing value for command".to_owned());
    }
    Ok(commands)
}
