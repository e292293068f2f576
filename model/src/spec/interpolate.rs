//! Compose's `${VAR}` in values, and `.env` files.

use super::report::{Findings, Place};
use super::tree::{Node, Value};
use std::collections::BTreeMap;

/// How deep defaults may nest: `${A:-${B:-${C}}}`.
const NESTING_MAX: usize = 8;

/// Replaces the variables in every value (never in keys), in place.
pub(super) fn interpolate(node: &mut Node, env: &BTreeMap<String, String>, findings: &mut Findings) {
    match &mut node.value {
        Value::Null => {}
        Value::Text(text) if text.contains('$') => match expand(text, env, 0) {
            Ok(expanded) => {
                for name in expanded.unset {
                    findings.notice(node.place, format!("${{{name}}} is not set: taken as empty"));
                }
                *text = expanded.text;
            }
            Err(failure) => report(failure, node.place, findings),
        },
        Value::Text(_) => {}
        Value::List(items) => items.iter_mut().for_each(|i| interpolate(i, env, findings)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, v)| interpolate(v, env, findings)),
    }
}

fn report(failure: Failure, place: Place, findings: &mut Findings) {
    match failure {
        Failure::Required { name, message } => {
            let why = if message.is_empty() { String::new() } else { format!(": {message}") };
            findings
                .error(place, format!("${{{name}}} must be set{why}"))
                .help(format!("export {name}=..., or put it in the .env file beside the YAML"));
        }
        Failure::Malformed(what) => {
            findings
                .error(place, format!("{what} is no variable"))
                .help("write ${NAME}, ${NAME:-default}, or $$ for a dollar sign");
        }
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Expanded {
    pub text: String,
    /// Variables without a value or default.
    pub unset: Vec<String>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    Required { name: String, message: String },
    Malformed(String),
}

/// Replaces `$NAME`, `${NAME}`, `${NAME:-x}`, `${NAME-x}`, `${NAME:?e}`, `${NAME?e}`,
/// `${NAME:+x}`, `${NAME+x}` and `$$`.
pub(super) fn expand(text: &str, env: &BTreeMap<String, String>, depth: usize) -> Result<Expanded, Failure> {
    if depth > NESTING_MAX {
        return Err(Failure::Malformed("a default nested deeper than 8".to_string()));
    }
    let mut out = Expanded { text: String::with_capacity(text.len()), unset: Vec::new() };
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.text.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.text.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after).ok_or_else(|| Failure::Malformed(format!("`${rest}`")))?;
            braced(&after[..end], env, depth, &mut out)?;
            rest = &after[end + 1..];
        } else {
            let len = name_len(rest);
            if len == 0 {
                return Err(Failure::Malformed(format!("`${rest}`")));
            }
            plain(&rest[..len], env, &mut out);
            rest = &rest[len..];
        }
    }
    out.text.push_str(rest);
    Ok(out)
}

fn plain(name: &str, env: &BTreeMap<String, String>, out: &mut Expanded) {
    match env.get(name) {
        Some(value) => out.text.push_str(value),
        None => out.unset.push(name.to_string()),
    }
}

fn braced(
    inner: &str,
    env: &BTreeMap<String, String>,
    depth: usize,
    out: &mut Expanded,
) -> Result<(), Failure> {
    let len = name_len(inner);
    let (name, rest) = inner.split_at(len);
    if name.is_empty() {
        return Err(Failure::Malformed(format!("`${{{inner}}}`")));
    }
    if rest.is_empty() {
        plain(name, env, out);
        return Ok(());
    }
    let (empty_is_unset, operator) = match rest.strip_prefix(':') {
        Some(operator) => (true, operator),
        None => (false, rest),
    };
    let value = env.get(name).filter(|v| !(empty_is_unset && v.is_empty()));
    let mut nested = |text: &str| -> Result<(), Failure> {
        let expanded = expand(text, env, depth + 1)?;
        out.text.push_str(&expanded.text);
        out.unset.extend(expanded.unset);
        Ok(())
    };
    match (operator.chars().next(), operator.get(1..), value) {
        (Some('-'), _, Some(value)) | (Some('?'), _, Some(value)) => out.text.push_str(value),
        (Some('-'), Some(default), None) => nested(default)?,
        (Some('?'), Some(message), None) => {
            return Err(Failure::Required { name: name.to_string(), message: message.to_string() });
        }
        (Some('+'), Some(other), Some(_)) => nested(other)?,
        (Some('+'), _, None) => {}
        _ => return Err(Failure::Malformed(format!("`${{{inner}}}`"))),
    }
    Ok(())
}

/// Where the brace opened just before `text` closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut before = ' ';
    for (i, c) in text.char_indices() {
        match c {
            '{' if before == '$' => depth += 1,
            '}' if depth == 0 => return Some(i),
            '}' => depth -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

fn name_len(text: &str) -> usize {
    let good = |(i, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit());
    text.char_indices().take_while(|x| good(*x)).count()
}

/// Reads a `.env` or `env_file`: `NAME=value` lines, `#` comments, quotes, `export`.
/// Values may use variables of `env` and of the lines before. `Err` names the line.
pub fn parse_env_file(
    text: &str,
    env: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, String> {
    let mut own = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            return Err(wrong("expected NAME=value"));
        };
        let name = name.trim();
        if name.is_empty() || name_len(name) != name.len() {
            return Err(wrong("a name is letters, digits and _"));
        }
        let value = value.trim();
        let value = if let Some(inner) = value.strip_prefix('\'') {
            let end = inner.find('\'').ok_or_else(|| wrong("a ' is not closed"))?;
            inner[..end].to_string()
        } else {
            let mut scope = env.clone();
            scope.extend(own.clone());
            let raw = match value.strip_prefix('"') {
                Some(inner) => double_quoted(inner).ok_or_else(|| wrong("a \" is not closed"))?,
                None => value.split(" #").next().unwrap_or("").trim_end().to_string(),
            };
            match expand(&raw, &scope, 0) {
                Ok(expanded) => expanded.text,
                Err(Failure::Required { name, .. }) => {
                    return Err(wrong(&format!("${{{name}}} must be set")));
                }
                Err(Failure::Malformed(_)) => return Err(wrong("a $ begins no variable: write $$")),
            }
        };
        own.insert(name.to_string(), value);
    }
    Ok(own)
}

fn double_quoted(inner: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = inner.chars();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                '$' => out.push_str("$$"),
                c => out.push(c),
            },
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> BTreeMap<String, String> {
        [("A", "1"), ("EMPTY", "")].map(|(k, v)| (k.to_string(), v.to_string())).into()
    }

    #[test]
    fn every_form_of_compose_expands() {
        let cases = [
            ("x$A/y", "x1/y"),
            ("${A}${A}", "11"),
            ("$$A", "$A"),
            ("${B:-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY-two}", ""),
            ("${B-two}", "two"),
            ("${A:+set}", "set"),
            ("${EMPTY:+set}", ""),
            ("${EMPTY+set}", "set"),
            ("${B:-${A}-${C:-d}}", "1-d"),
            ("${A:?needed}", "1"),
            ("é${A}é", "é1é"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &env(), 0).unwrap().text, expected, "{text}");
        }
        assert_eq!(expand("$B", &env(), 0).unwrap().unset, ["B"]);
        let required = Failure::Required { name: "B".into(), message: "say it".into() };
        assert_eq!(expand("${B:?say it}", &env(), 0), Err(required));
        for bad in ["${", "${A", "$", "$1", "${}", "${A!x}", "${A:}"] {
            assert!(matches!(expand(bad, &env(), 0), Err(Failure::Malformed(_))), "{bad}");
        }
        assert!(expand(&format!("{}x{}", "${Q:-".repeat(20), "}".repeat(20)), &env(), 0).is_err());
    }

    #[test]
    fn env_files_read_quotes_comments_and_earlier_lines() {
        let text = "# c\nexport X=1\nY=\"a b $X\" \nZ='$X'\nW=v # note\nV=${A}\nE=\nD=\"\\$5\"\n";
        let read = parse_env_file(text, &env()).unwrap();
        let expected =
            [("D", "$5"), ("E", ""), ("V", "1"), ("W", "v"), ("X", "1"), ("Y", "a b 1"), ("Z", "$X")];
        assert_eq!(read, expected.map(|(k, v)| (k.to_string(), v.to_string())).into());
        for (bad, line) in [("X", "line 1"), ("A=1\n1X=2", "line 2"), ("X='a", "line 1"), ("X=$", "line 1")] {
            assert!(parse_env_file(bad, &env()).unwrap_err().starts_with(line), "{bad}");
        }
    }
}
