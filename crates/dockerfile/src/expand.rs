//! Words as a shell reads them: quotes, escapes and variables with their modifiers.

/// Variables inside variables may be nested this deep.
const DEPTH_MAX: usize = 64;
/// What one expansion may grow to.
const RESULT_BYTES_MAX: usize = 1 << 20;

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lexer {
    /// `\` or `` ` ``.
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escape characters stay in the result.
    pub raw_escapes: bool,
    /// Quotes are letters like others.
    pub skip_quotes: bool,
    /// Variables that are not set stay as they were written.
    pub skip_unset: bool,
}

impl Default for Lexer {
    fn default() -> Self {
        Self { escape: '\\', raw_quotes: false, raw_escapes: false, skip_quotes: false, skip_unset: false }
    }
}

/// A word and the variables that it names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Expanded {
    pub text: String,
    pub words: Vec<String>,
    /// Names of variables that are set.
    pub matched: Vec<String>,
    /// Names of variables that are not.
    pub unmatched: Vec<String>,
}

impl Lexer {
    pub(crate) fn new(escape: char) -> Self {
        Self { escape, ..Self::default() }
    }

    /// Only splits.
    pub(crate) fn raw() -> Self {
        Self { raw_quotes: true, raw_escapes: true, skip_unset: true, ..Self::default() }
    }

    /// Expands a text as one word.
    pub(crate) fn word(&self, text: &str, get: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
        self.expand(text, get).map(|expanded| expanded.text)
    }

    /// Expands a text and splits the result at spaces outside of quotes.
    pub(crate) fn words(&self, text: &str, get: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
        self.expand(text, get).map(|expanded| expanded.words)
    }

    /// Expands a text; says too which variables it names.
    pub(crate) fn expand(&self, text: &str, get: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, String> {
        let mut reader =
            Reader { lexer: *self, letters: text.chars().collect(), at: 0, get, depth: 0, matched: Vec::new(), unmatched: Vec::new() };
        let (text, words) = reader.until(None, self.raw_escapes).map_err(|reason| format!("failed to process {text:?}: {reason}"))?;
        Ok(Expanded { text, words, matched: reader.matched, unmatched: reader.unmatched })
    }
}

#[derive(Default)]
struct Words {
    word: String,
    words: Vec<String>,
    inside: bool,
}

impl Words {
    fn add(&mut self, letter: char) {
        if !letter.is_whitespace() {
            self.add_raw(letter);
        } else if self.inside && !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
            self.inside = false;
        }
    }

    fn add_raw(&mut self, letter: char) {
        self.word.push(letter);
        self.inside = true;
    }

    fn add_raw_text(&mut self, text: &str) {
        self.word.push_str(text);
        self.inside = true;
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Reader<'a> {
    lexer: Lexer,
    letters: Vec<char>,
    at: usize,
    get: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
    matched: Vec<String>,
    unmatched: Vec<String>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.letters.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.at += 1;
        Some(letter)
    }

    /// Reads up to `stop`, or to the end without one.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), String> {
        if self.depth == DEPTH_MAX {
            return Err("variables are nested too deeply".to_owned());
        }
        self.depth += 1;
        let before = std::mem::replace(&mut self.lexer.raw_escapes, raw_escapes);
        let result = self.until_inner(stop);
        self.lexer.raw_escapes = before;
        self.depth -= 1;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), String> {
        let mut result = String::new();
        let mut words = Words::default();
        while let Some(letter) = self.peek() {
            if Some(letter) == stop {
                self.at += 1;
                return Ok((result, words.finish()));
            }
            if result.len() > RESULT_BYTES_MAX {
                return Err(format!("the expansion is longer than {RESULT_BYTES_MAX} bytes"));
            }
            match letter {
                '$' => {
                    let text = self.dollar()?;
                    text.chars().for_each(|letter| words.add(letter));
                    result.push_str(&text);
                }
                '\'' | '"' if !self.lexer.skip_quotes => {
                    let text = if letter == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    words.add_raw_text(&text);
                    result.push_str(&text);
                }
                '<' if self.letters.get(self.at + 1) == Some(&'<') => {
                    let text = self.redirection();
                    words.add_raw_text(&text);
                    result.push_str(&text);
                }
                _ => self.letter(&mut result, &mut words),
            }
        }
        match stop {
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
            None => Ok((result, words.finish())),
        }
    }

    fn letter(&mut self, result: &mut String, words: &mut Words) {
        let Some(letter) = self.next() else { return };
        if letter != self.lexer.escape {
            words.add(letter);
            result.push(letter);
            return;
        }
        if self.lexer.raw_escapes {
            words.add_raw(letter);
            result.push(letter);
        }
        if let Some(escaped) = self.next() {
            words.add_raw(escaped);
            result.push(escaped);
        }
    }

    /// `<<`, with the dash and the spaces after it, which don't end the word.
    fn redirection(&mut self) -> String {
        let mut text = String::from("<<");
        self.at += 2;
        if self.peek() == Some('-') {
            self.at += 1;
            text.push('-');
        }
        while let Some(space) = self.peek().filter(|letter| letter.is_whitespace()) {
            self.at += 1;
            text.push(space);
        }
        text
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut result = String::new();
        let open = self.next();
        result.extend(open.filter(|_| self.lexer.raw_quotes));
        loop {
            match self.next() {
                None => return Err("unexpected end of statement while looking for matching single-quote".to_owned()),
                Some('\'') => {
                    result.extend(open.filter(|_| self.lexer.raw_quotes));
                    return Ok(result);
                }
                Some(letter) => result.push(letter),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut result = String::new();
        let open = self.next();
        result.extend(open.filter(|_| self.lexer.raw_quotes));
        loop {
            match self.peek() {
                None => return Err("unexpected end of statement while looking for matching double-quote".to_owned()),
                Some('"') => {
                    self.at += 1;
                    result.extend(open.filter(|_| self.lexer.raw_quotes));
                    return Ok(result);
                }
                Some('$') => result.push_str(&self.dollar()?),
                Some(letter) => {
                    self.at += 1;
                    if letter != self.lexer.escape {
                        result.push(letter);
                        continue;
                    }
                    if self.lexer.raw_escapes {
                        result.push(letter);
                    }
                    match self.peek() {
                        None => {}
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == self.lexer.escape => {
                            self.at += 1;
                            result.push(escaped);
                        }
                        Some(_) if self.lexer.raw_escapes => {}
                        Some(_) => result.push(letter),
                    }
                }
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(letter) = self.peek() {
            if name.is_empty() && letter.is_ascii_digit() {
                while let Some(digit) = self.peek().filter(char::is_ascii_digit) {
                    self.at += 1;
                    name.push(digit);
                }
                return name;
            }
            if name.is_empty() && "@*#?-$!".contains(letter) {
                self.at += 1;
                return letter.to_string();
            }
            if !letter.is_alphanumeric() && letter != '_' {
                break;
            }
            self.at += 1;
            name.push(letter);
        }
        name
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.get)(name);
        let names = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        value
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name) {
                None if self.lexer.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.at += 1;
        match self.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            _ => {}
        }
        let name = self.name();
        match self.next() {
            None => Err("syntax error: missing '}'".to_owned()),
            Some('}') => Ok(match self.value(&name) {
                None if self.lexer.skip_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => match self.next() {
                Some(op @ ('+' | '-' | '?')) => self.conditional(&name, op, true),
                Some(op @ ('#' | '%')) => self.trimmed(&name, op),
                Some(op) => Err(format!("unsupported modifier (:{op}) in substitution")),
                None => Err("syntax error: missing '}'".to_owned()),
            },
            Some(op @ ('+' | '-' | '?')) => self.conditional(&name, op, false),
            Some(op @ ('#' | '%')) => self.trimmed(&name, op),
            Some('/') => self.replaced(&name),
            Some(op) => Err(format!("unsupported modifier ({op}) in substitution")),
        }
    }

    /// Reads up to the closing brace or another mark; at the end of the text the mark is missing.
    fn part(&mut self, stop: char, raw_escapes: bool, missing: &str) -> Result<String, String> {
        let result = self.until(Some(stop), raw_escapes).map(|(text, _)| text);
        if result.is_err() && self.peek().is_none() { Err(format!("syntax error: missing {missing}")) } else { result }
    }

    fn conditional(&mut self, name: &str, op: char, null_is_unset: bool) -> Result<String, String> {
        let word = self.part('}', false, "'}'")?;
        let noted = self.unmatched.len();
        let value = self.value(name);
        // Who says what holds without the variable knows that it may not be set.
        self.unmatched.truncate(noted);
        if value.is_none() && self.lexer.skip_unset {
            let colon = if null_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{op}{word}}}"));
        }
        let empty = value.as_deref().is_some_and(str::is_empty);
        let set = value.filter(|value| !(null_is_unset && value.is_empty()));
        match (op, set) {
            ('-', None) => Ok(word),
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('?', None) if word.is_empty() => Err(format!("{name}: is not allowed to be {}", if empty { "empty" } else { "unset" })),
            ('?', None) => Err(format!("{name}: {word}")),
            (_, set) => Ok(set.unwrap_or_default()),
        }
    }

    fn trimmed(&mut self, name: &str, op: char) -> Result<String, String> {
        let word = self.part('}', true, "'}'")?;
        let Some(value) = self.value(name) else {
            return Ok(if self.lexer.skip_unset { format!("${{{name}{op}{word}}}") } else { String::new() });
        };
        let (greedy, pattern) = word.strip_prefix(op).map_or((false, word.as_str()), |rest| (true, rest));
        let mut pattern = Pattern::parse(pattern, greedy)?;
        let mut letters: Vec<char> = value.chars().collect();
        if op == '#' {
            let end = pattern.matches(&letters, 0).unwrap_or(0);
            return Ok(letters[end..].iter().collect());
        }
        pattern.tokens.reverse();
        letters.reverse();
        let end = pattern.matches(&letters, 0).unwrap_or(0);
        Ok(letters[end..].iter().rev().collect())
    }

    fn replaced(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let pattern = self.part('/', true, "'/' in ${}")?;
        let replacement = self.part('}', true, "'}'")?;
        let Some(value) = self.value(name) else {
            let slashes = if all { "//" } else { "/" };
            return Ok(if self.lexer.skip_unset { format!("${{{name}{slashes}{pattern}/{replacement}}}") } else { String::new() });
        };
        let pattern = Pattern::parse(&pattern, true)?;
        let letters: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let mut at = 0;
        let mut done = false;
        while at <= letters.len() {
            match pattern.matches(&letters, at).filter(|_| !done) {
                Some(end) => {
                    result.push_str(&replacement);
                    done = !all;
                    if end == at {
                        result.extend(letters.get(at));
                    }
                    at = end.max(at + 1);
                    // Nothing is left to match after a match that reached the end.
                    done |= end == letters.len() && end > 0;
                }
                None => {
                    result.extend(letters.get(at));
                    at += 1;
                }
            }
            if result.len() > RESULT_BYTES_MAX {
                return Err(format!("the expansion is longer than {RESULT_BYTES_MAX} bytes"));
            }
        }
        Ok(result)
    }
}

#[derive(Debug, Clone, Copy)]
enum Token {
    Any,
    One,
    Letter(char),
}

/// A pattern with `*` and `?`.
struct Pattern {
    tokens: Vec<Token>,
    greedy: bool,
}

impl Pattern {
    fn parse(text: &str, greedy: bool) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            tokens.push(match letter {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => match letters.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Letter(escaped),
                    other => {
                        let escaped = other.map(String::from).unwrap_or_default();
                        return Err(format!("invalid pattern ({text}) in substitution: invalid escape '\\{escaped}'"));
                    }
                },
                letter => Token::Letter(letter),
            });
        }
        Ok(Self { tokens, greedy })
    }

    /// Where a match that begins at `start` ends: the longest or the shortest one.
    fn matches(&self, text: &[char], start: usize) -> Option<usize> {
        // The positions that can be reached after each token: no backtracking, so that time is bounded.
        let mut reached = vec![false; text.len() - start + 1];
        reached[0] = true;
        for token in &self.tokens {
            match token {
                Token::Any => {
                    for at in 1..reached.len() {
                        reached[at] |= reached[at - 1] && text[start + at - 1] != '\n';
                    }
                }
                Token::One | Token::Letter(_) => {
                    for at in (1..reached.len()).rev() {
                        let letter = text[start + at - 1];
                        let fits = match token {
                            Token::Letter(wanted) => *wanted == letter,
                            _ => letter != '\n',
                        };
                        reached[at] = reached[at - 1] && fits;
                    }
                    reached[0] = false;
                }
            }
        }
        let found = if self.greedy { reached.iter().rposition(|at| *at) } else { reached.iter().position(|at| *at) };
        found.map(|at| start + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(name: &str) -> Option<String> {
        let value = match name {
            "A" => "a",
            "EMPTY" => "",
            "WORDS" => "one two",
            "FILE" => "/usr/lib/libfoo.so.1.2",
            "STAR" => "a*b?c",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn variables_and_modifiers() {
        for (text, result) in [
            ("$A", "a"),
            ("${A}b", "ab"),
            ("$AB", ""),
            ("x$", "x$"),
            ("\\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A\"", "a"),
            ("\"\\$A \\n\"", "$A \\n"),
            ("${NO:-d}", "d"),
            ("${NO-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${A:-d}", "a"),
            ("${A:+y}", "y"),
            ("${EMPTY:+y}", ""),
            ("${EMPTY+y}", "y"),
            ("${NO:+y}", ""),
            ("${NO:-${A}x}", "ax"),
            ("${NO:-\"q r\"}", "q r"),
            ("${A:?x}", "a"),
            ("${FILE#/*/}", "lib/libfoo.so.1.2"),
            ("${FILE##*/}", "libfoo.so.1.2"),
            ("${FILE%.*}", "/usr/lib/libfoo.so.1"),
            ("${FILE%%.*}", "/usr/lib/libfoo"),
            ("${FILE/lib/LIB}", "/usr/LIB/libfoo.so.1.2"),
            ("${FILE//lib/LIB}", "/usr/LIB/LIBfoo.so.1.2"),
            ("${FILE//\\//-}", "-usr-lib-libfoo.so.1.2"),
            ("${STAR/\\*/x}", "axb?c"),
            ("${STAR#a\\*}", "b?c"),
            ("${A/*/x}", "x"),
            ("${A//*/x}", "x"),
            ("$1$@", ""),
        ] {
            assert_eq!(Lexer::default().word(text, &get).as_deref(), Ok(result), "{text}");
        }
    }

    #[test]
    fn faults_are_named() {
        for (text, part) in [
            ("${A", "missing '}'"),
            ("${", "missing '}'"),
            ("${}", "bad substitution"),
            ("${A:x}", "unsupported modifier (:x)"),
            ("${A!}", "unsupported modifier (!)"),
            ("${NO:?no such thing}", "NO: no such thing"),
            ("${NO?}", "NO: is not allowed to be unset"),
            ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
            ("'a", "single-quote"),
            ("\"a", "double-quote"),
            ("${A/b}", "missing '/'"),
            ("${A#\\x}", "invalid escape"),
        ] {
            let reason = Lexer::default().word(text, &get).expect_err(text);
            assert!(reason.contains(part), "{text}: {reason}");
        }
        let deep = "${A:-".repeat(10_000);
        assert!(Lexer::default().word(&deep, &get).is_err());
    }

    #[test]
    fn words_are_split_after_expansion_and_kept_by_quotes() {
        let words = |text| Lexer::default().words(text, &get).expect("expands");
        assert_eq!(words("$WORDS \"$WORDS\" x\\ y"), ["one", "two", "one two", "x y"]);
        assert_eq!(Lexer::raw().words("a <<- EOF <<'B C'", &get).expect("splits"), ["a", "<<- EOF", "<<'B C'"]);
    }

    #[test]
    fn unset_variables_can_stay() {
        let lexer = Lexer { skip_unset: true, raw_quotes: true, ..Lexer::default() };
        assert_eq!(lexer.word("echo \"$NO ${NO} ${NO:-x} $A\"", &get).expect("expands"), "echo \"$NO ${NO} ${NO:-x} a\"");
        let windows = Lexer::new('`');
        assert_eq!(windows.word("C:\\x`$A", &get).expect("expands"), "C:\\x$A");
    }
}
