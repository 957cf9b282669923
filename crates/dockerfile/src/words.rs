//! How the different instructions split what follows their keyword.

use crate::ast::{ArgPair, Pair};

/// Spaces that separate words: newlines don't occur, other Unicode spaces are letters.
const SPACES: [char; 5] = [' ', '\t', '\u{b}', '\u{c}', '\r'];

/// The keyword and the rest of an instruction.
pub(crate) fn keyword(text: &str) -> (&str, &str) {
    let text = text.trim();
    match text.find(SPACES) {
        Some(end) => (&text[..end], text[end..].trim_start_matches(SPACES)),
        None => (text, ""),
    }
}

/// Whether here-documents belong to the instruction; not in exec form, where they are plain words.
pub(crate) fn may_have_heredocs(word: &str, args: &str) -> bool {
    match word.to_ascii_uppercase().as_str() {
        "RUN" | "COPY" | "ADD" => json(args).is_none(),
        "ONBUILD" => {
            let (inner, rest) = keyword(args);
            !inner.eq_ignore_ascii_case("ONBUILD") && may_have_heredocs(inner, rest)
        }
        _ => false,
    }
}

/// Takes the leading words that begin with two dashes, quotes and escapes resolved; two dashes alone end them.
pub(crate) fn flags(rest: &str, escape: char) -> (Vec<String>, String) {
    let mut found = Vec::new();
    let mut rest = rest.trim_start();
    while rest.starts_with("--") {
        let (word, after) = flag_word(rest, escape);
        rest = after.trim_start();
        if word == "--" {
            break;
        }
        found.push(word);
    }
    (found, rest.to_owned())
}

fn flag_word(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match quote {
            None if letter.is_whitespace() => return (word, &text[at..]),
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            Some(open) if letter == open => quote = None,
            _ if letter == escape && quote != Some('\'') => {
                if let Some((_, next)) = letters.next() {
                    word.push(next);
                }
            }
            _ => word.push(letter),
        }
    }
    (word, "")
}

/// A JSON array of words; nothing if it is no array, an error if it has something else than words.
pub(crate) fn json(rest: &str) -> Option<Result<Vec<String>, String>> {
    let rest = rest.trim_start();
    if !rest.starts_with('[') {
        return None;
    }
    let items: Vec<serde_json::Value> = serde_json::from_str(rest).ok()?;
    let words = items.into_iter().map(|item| match item {
        serde_json::Value::String(word) => Ok(word),
        _ => Err("when using JSON array syntax, arrays must be comprised of strings only".to_owned()),
    });
    Some(words.collect())
}

/// Words between spaces; quotes are letters.
pub(crate) fn plain(rest: &str) -> Vec<String> {
    rest.split(SPACES).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Words between spaces that may have quotes, which stay.
pub(crate) fn quoted(rest: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut any = false;
    let mut letters = rest.chars().peekable();
    while let Some(letter) = letters.next() {
        if quote.is_none() && letter.is_whitespace() {
            if any {
                words.push(std::mem::take(&mut word));
            }
            any = false;
            continue;
        }
        if letter == escape && quote != Some('\'') {
            // An escape at the very end is left out.
            if let Some(next) = letters.next() {
                any = true;
                word.extend([letter, next]);
            }
            continue;
        }
        any = true;
        match quote {
            Some(open) if letter == open => quote = None,
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            _ => {}
        }
        word.push(letter);
    }
    if any {
        words.push(word);
    }
    words
}

/// `name=value …`, or the old `name value` with the rest of the line as its value.
pub(crate) fn pairs(rest: &str, escape: char, keyword: &str) -> Result<Vec<Pair>, String> {
    let words = quoted(rest, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let (name, value) = rest.split_once(SPACES).ok_or_else(|| format!("{keyword} must have two arguments"))?;
        let value = value.trim_start_matches(SPACES).to_owned();
        return Ok(vec![Pair { name: name.to_owned(), value, legacy: true }]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) => Ok(Pair { name: name.to_owned(), value: value.to_owned(), legacy: false }),
            None => Err(format!("can't find = in {word:?}: must be of the form: name=value")),
        })
        .collect()
}

/// `name` and `name=default` of `ARG`.
pub(crate) fn args(rest: &str, escape: char) -> Result<Vec<ArgPair>, String> {
    quoted(rest, escape)
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err("ARG names can not be blank".to_owned()),
            Some((name, value)) => Ok(ArgPair { name: name.to_owned(), default: Some(value.to_owned()) }),
            None => Ok(ArgPair { name: word, default: None }),
        })
        .collect()
}

/// The fields of one line of comma-separated values.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        let mut field = String::new();
        if letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next() {
                    Some('"') if letters.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(letter) => field.push(letter),
                    None => return Err("extraneous or missing \" in quoted-field".to_owned()),
                }
            }
            if letters.peek().is_some_and(|letter| *letter != ',') {
                return Err("extraneous or missing \" in quoted-field".to_owned());
            }
        } else {
            while let Some(letter) = letters.next_if(|letter| *letter != ',') {
                if letter == '"' {
                    return Err("bare \" in non-quoted-field".to_owned());
                }
                field.push(letter);
            }
        }
        fields.push(field);
        if letters.next().is_none() {
            return Ok(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_at_the_first_word_without_dashes() {
        let (found, rest) = flags("--mount=type=bind --x='a b' --y=\\\"q cmd --z", '\\');
        assert_eq!(found, ["--mount=type=bind", "--x=a b", "--y=\"q"]);
        assert_eq!(rest, "cmd --z");
        assert_eq!(flags("-- --x y", '\\'), (vec![], "--x y".to_owned()));
    }

    #[test]
    fn quotes_and_escapes_keep_words_together() {
        assert_eq!(quoted(r#"a="b c" d='e f' g=h\ i "" j"#, '\\'), [r#"a="b c""#, "d='e f'", r"g=h\ i", "\"\"", "j"]);
        assert_eq!(quoted("a\\", '\\'), ["a"]);
        assert_eq!(quoted("'a\\' b", '\\'), ["'a\\'", "b"]);
        assert_eq!(quoted("a=C:\\x", '`'), ["a=C:\\x"]);
    }

    #[test]
    fn csv_follows_go() {
        assert_eq!(csv(r#"type=bind,"source=a,b",x"#).expect("parses"), ["type=bind", "source=a,b", "x"]);
        assert_eq!(csv("").expect("parses"), [""]);
        assert!(csv("\"a").is_err());
        assert!(csv("a\"b").is_err());
    }
}
