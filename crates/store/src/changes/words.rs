//! Words of an instruction: quotes, escapes and variables, as a Dockerfile has them.

use std::iter::Peekable;
use std::str::Chars;

use crate::{Error, Result};

/// Tells a variable's value.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Finds a variable among `NAME=value` texts.
pub(super) fn lookup(env: &[String], name: &str) -> Option<String> {
    env.iter().filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

/// Splits at white space outside of quotes; quotes and escapes stay.
pub(super) fn split(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => {
                word.push(letter);
                word.extend(letters.next());
            }
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.push(letter);
            }
            (letter, Some(open)) if letter == open => {
                quote = None;
                word.push(letter);
            }
            (letter, None) if letter.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (letter, _) => word.push(letter),
        }
    }
    if quote.is_some() {
        return Err(unexpected_end());
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// Takes quotes and escapes away and puts in the variables' values.
pub(super) fn expand(text: &str, variables: Environment<'_>) -> Result<String> {
    let mut out = String::new();
    let mut letters = text.chars().peekable();
    let mut in_double = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\'' if !in_double => loop {
                match letters.next() {
                    Some('\'') => break,
                    Some(letter) => out.push(letter),
                    None => return Err(unexpected_end()),
                }
            },
            '"' => in_double = !in_double,
            '\\' => match letters.next() {
                Some(next) if in_double && !matches!(next, '"' | '$' | '\\') => out.extend(['\\', next]),
                Some(next) => out.push(next),
                None => out.push('\\'),
            },
            '$' => out.push_str(&variable(&mut letters, variables)?),
            letter => out.push(letter),
        }
    }
    match in_double {
        true => Err(unexpected_end()),
        false => Ok(out),
    }
}

/// What follows a dollar sign: `NAME`, `{NAME}`, `{NAME:-default}` or `{NAME:+instead}`.
fn variable(letters: &mut Peekable<Chars<'_>>, variables: Environment<'_>) -> Result<String> {
    let part_of_name = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
    if letters.peek() != Some(&'{') {
        let mut name = String::new();
        while let Some(letter) = letters.next_if(part_of_name) {
            name.push(letter);
        }
        return Ok(match name.is_empty() {
            true => "$".to_owned(),
            false => variables(&name).unwrap_or_default(),
        });
    }
    letters.next();
    let mut name = String::new();
    while let Some(letter) = letters.next_if(part_of_name) {
        name.push(letter);
    }
    let value = variables(&name).filter(|value| !value.is_empty());
    let bad = || Error::Change(format!("unsupported modifier in the substitution of {name:?}"));
    match letters.next() {
        Some('}') => Ok(variables(&name).unwrap_or_default()),
        Some(':') => {
            let modifier = letters.next();
            let word = expand(&until_brace(letters)?, variables)?;
            match modifier {
                Some('-') => Ok(value.unwrap_or(word)),
                Some('+') => Ok(value.map(|_| word).unwrap_or_default()),
                _ => Err(bad()),
            }
        }
        Some(_) => Err(bad()),
        None => Err(unexpected_end()),
    }
}

fn until_brace(letters: &mut Peekable<Chars<'_>>) -> Result<String> {
    let mut text = String::new();
    let mut depth = 1;
    for letter in letters.by_ref() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(text);
        }
        text.push(letter);
    }
    Err(unexpected_end())
}

fn unexpected_end() -> Error {
    Error::Change("unexpected end of statement while looking for a matching quote or brace".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_and_expanded() {
        let env = ["A=1".to_owned(), "E=".to_owned()];
        let expanded = |text: &str| expand(text, &|name| lookup(&env, name)).expect(text);
        for (text, result) in [
            ("$A", "1"),
            ("${A}x", "1x"),
            ("\\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A b\"", "1 b"),
            ("${B:-d}", "d"),
            ("${E:-d}", "d"),
            ("${A:+y}${B:+y}", "y"),
            ("${B:-${A}}", "1"),
            ("a\\ b", "a b"),
            ("$", "$"),
        ] {
            assert_eq!(expanded(text), result, "{text}");
        }
        assert_eq!(split("a \"b c\" d\\ e 'f g'").expect("splits"), ["a", "\"b c\"", "d\\ e", "'f g'"]);
        assert!(split("a 'b").is_err());
        assert!(expand("${A", &|_| None).is_err());
        assert!(expand("${A?x}", &|_| None).is_err());
    }
}
