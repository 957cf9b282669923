//! From lines to instructions: directives, comments, continuations and here-documents.

use crate::ast::{Directive, Directives, Heredoc, Lines};
use crate::error::{Error, Place, Problem};
use crate::expand::Lexer;
use crate::words;

/// Here-documents one instruction may have.
const HEREDOCS_MAX: usize = 256;
const DEFAULT_ESCAPE: char = '\\';

/// An instruction before its words are looked at.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    /// The keyword as written.
    pub keyword: String,
    /// The words that begin with two dashes right after the keyword, without quotes.
    pub flags: Vec<String>,
    /// The rest of the line.
    pub args: String,
    pub heredocs: Vec<Heredoc>,
    pub lines: Lines,
    /// The whole instruction as one line.
    pub text: String,
    /// Comments right above.
    pub comments: Vec<String>,
}

/// A text cut into instructions.
#[derive(Debug)]
pub(crate) struct Cut {
    pub directives: Directives,
    pub instructions: Vec<Raw>,
    pub empty_continuations: Vec<Lines>,
}

/// Cuts a Dockerfile into instructions.
pub(crate) fn cut(source: &str) -> Result<Cut, Error> {
    let directives = directives(source)?;
    let mut cutter = Cutter { source, lines: source.split_inclusive('\n').collect(), next: 0, escape: directives.escape };
    let mut instructions = Vec::new();
    let mut empty_continuations = Vec::new();
    let mut comments = Vec::new();
    while let Some(line) = cutter.take() {
        let line = body(line).trim_start();
        if let Some(comment) = line.strip_prefix('#') {
            match comment.trim() {
                "" => comments.clear(),
                comment => comments.push(comment.to_owned()),
            }
            continue;
        }
        if line.is_empty() {
            comments.clear();
            continue;
        }
        let (raw, gap) = cutter.instruction(line, std::mem::take(&mut comments))?;
        if gap {
            empty_continuations.push(raw.lines);
        }
        instructions.push(raw);
    }
    Ok(Cut { directives, instructions, empty_continuations })
}

/// Cuts the one instruction of an `ONBUILD` trigger.
pub(crate) fn cut_trigger(text: &str, escape: char) -> Result<Raw, Error> {
    let mut cutter = Cutter { source: text, lines: text.split_inclusive('\n').collect(), next: 0, escape };
    let first = cutter.take().map(|line| body(line).trim_start()).unwrap_or_default();
    let (raw, _) = cutter.instruction(first, Vec::new())?;
    Ok(raw)
}

/// The place of a fault in a text: the column is where `needle` is in one of the lines, else where the first line begins.
pub(crate) fn place(source: &str, lines: Lines, needle: Option<&str>) -> Place {
    let needle = needle.filter(|needle| !needle.is_empty());
    let mut first = None;
    for (number, line) in (1u32..).zip(source.lines()).filter(|(number, _)| (lines.first..=lines.last).contains(number)) {
        let column = |at: usize| u32::try_from(line[..at].chars().count()).unwrap_or(u32::MAX).saturating_add(1);
        if let Some(at) = needle.and_then(|needle| line.find(needle)) {
            return Place { lines, line: number, column: column(at), text: line.to_owned() };
        }
        first.get_or_insert_with(|| {
            let start = line.len() - line.trim_start().len();
            Place { lines, line: number, column: column(start), text: line.to_owned() }
        });
    }
    first.unwrap_or(Place { lines, line: lines.first, column: 1, text: String::new() })
}

struct Cutter<'a> {
    source: &'a str,
    lines: Vec<&'a str>,
    next: usize,
    escape: char,
}

impl<'a> Cutter<'a> {
    fn take(&mut self) -> Option<&'a str> {
        let line = *self.lines.get(self.next)?;
        self.next += 1;
        // A byte order mark is no part of the first instruction.
        Some(if self.next == 1 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line })
    }

    fn number(&self) -> u32 {
        u32::try_from(self.next).unwrap_or(u32::MAX)
    }

    /// Reads the rest of the instruction that begins with `line`; says too whether an empty line interrupts it.
    fn instruction(&mut self, line: &str, comments: Vec<String>) -> Result<(Raw, bool), Error> {
        let first = self.number();
        let mut gap = false;
        let (start, mut more) = self.continued(line);
        let mut text = start.to_owned();
        while more {
            let Some(line) = self.take().map(body) else { break };
            let trimmed = line.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                gap = true;
                continue;
            }
            let (part, again) = self.continued(line);
            text.push_str(part);
            more = again;
        }
        let lines = Lines { first, last: self.number() };
        let (keyword, rest) = words::keyword(&text);
        let (flags, args) = words::flags(rest, self.escape);
        let mut raw = Raw { keyword: keyword.to_owned(), flags, args, heredocs: Vec::new(), lines, text: text.clone(), comments };
        if words::may_have_heredocs(keyword, &raw.args) {
            raw.heredocs = self.heredocs(&text, lines)?;
            raw.lines.last = self.number();
        }
        Ok((raw, gap))
    }

    /// The line without its continuation mark, and whether it has one: a single escape character at its end.
    fn continued<'l>(&self, line: &'l str) -> (&'l str, bool) {
        let trimmed = line.trim_end_matches([' ', '\t']);
        match trimmed.strip_suffix(self.escape) {
            Some(before) if !before.ends_with(self.escape) => (before, true),
            _ => (line, false),
        }
    }

    fn heredocs(&mut self, text: &str, lines: Lines) -> Result<Vec<Heredoc>, Error> {
        let mut found = Vec::new();
        for word in Lexer::raw().words(text, &|_| None).unwrap_or_default() {
            if let Some(mut heredoc) = parse_heredoc(&word) {
                if found.len() == HEREDOCS_MAX {
                    let message = format!("more than {HEREDOCS_MAX} here-documents in one instruction");
                    return Err(self.fault(lines, Some(&word), message, None));
                }
                self.fill(&mut heredoc, lines, &word)?;
                found.push(heredoc);
            }
        }
        Ok(found)
    }

    fn fill(&mut self, heredoc: &mut Heredoc, lines: Lines, word: &str) -> Result<(), Error> {
        while let Some(line) = self.take() {
            let end = body(line);
            let end = if heredoc.chomp { end.trim_start_matches('\t') } else { end };
            if end == heredoc.name {
                return Ok(());
            }
            heredoc.content.push_str(line);
        }
        let hint = format!("end it with a line that is exactly {}", heredoc.name);
        Err(self.fault(lines, Some(word), "unterminated heredoc".to_owned(), Some(hint)))
    }

    fn fault(&self, lines: Lines, needle: Option<&str>, message: String, hint: Option<String>) -> Error {
        Error { place: Some(place(self.source, lines, needle)), problem: Problem::Syntax { message, hint } }
    }
}

/// Reads `<<NAME`, `<<-NAME` and `<<"NAME"`; a number may stand before.
pub(crate) fn parse_heredoc(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|letter: char| letter.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let plain = Lexer { skip_unset: true, ..Lexer::default() }.words(rest, &|_| None).ok()?;
    let raw = Lexer { skip_unset: true, raw_quotes: true, ..Lexer::default() }.words(rest, &|_| None).ok()?;
    let [name] = plain.as_slice() else { return None };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = quotes(name) == raw.first().map_or(0, |raw| quotes(raw));
    Some(Heredoc { name: name.clone(), content: String::new(), expand, chomp })
}

/// The line without its end.
fn body(line: &str) -> &str {
    line.trim_end_matches(['\n', '\r'])
}

/// Reads the comments at the top that are directives. The first line that is none ends them.
fn directives(source: &str) -> Result<Directives, Error> {
    let mut found = Directives { syntax: None, escape: DEFAULT_ESCAPE, check: None };
    let mut escape_seen = false;
    let text = source.strip_prefix('\u{feff}').unwrap_or(source);
    let shebang = text.starts_with("#!");
    for (number, line) in (1u32..).zip(text.lines()).skip(usize::from(shebang)) {
        let Some((key, value)) = directive(line) else { break };
        let lines = Lines { first: number, last: number };
        let fault = |message: String, hint: &str| {
            Err(Error { place: Some(place(source, lines, None)), problem: Problem::Syntax { message, hint: Some(hint.to_owned()) } })
        };
        let repeated = match key.as_str() {
            "syntax" => found.syntax.is_some(),
            "check" => found.check.is_some(),
            "escape" => escape_seen,
            _ => break,
        };
        if repeated {
            return fault(format!("only one {key} parser directive can be used"), "keep one of them");
        }
        let value = value.to_owned();
        match key.as_str() {
            "syntax" => found.syntax = Some(Directive { value, line: number }),
            "check" => found.check = Some(Directive { value, line: number }),
            _ => {
                escape_seen = true;
                found.escape = match value.as_str() {
                    "\\" => '\\',
                    "`" => '`',
                    _ => return fault(format!("invalid ESCAPE '{value}'. Must be ` or \\"), "write # escape=` or # escape=\\"),
                };
            }
        }
    }
    Ok(found)
}

fn directive(line: &str) -> Option<(String, &str)> {
    let (key, value) = line.trim().strip_prefix('#')?.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let word = key.starts_with(|letter: char| letter.is_ascii_alphabetic()) && key.bytes().all(|letter| letter.is_ascii_alphanumeric());
    (word && !value.is_empty()).then(|| (key.to_lowercase(), value))
}
