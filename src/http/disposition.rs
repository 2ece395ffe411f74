//! Names of files: the header `Content-Disposition` (RFC 6266).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use poem::http::{HeaderMap, header};

use crate::http::{
    parameter::InHead,
    problem::{Invalid, Problem},
};

/// The name of a file that a client sends: the last segment of the path in `filename*` or `filename`.
pub struct Filename(pub Option<String>);

const MAX_CHARACTERS: usize = 255;
/// All but attr-char (RFC 8187, section 3.2.1).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

impl InHead for Filename {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(header::CONTENT_DISPOSITION).iter();
        let read = match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => match str::from_utf8(value.as_bytes()) {
                Ok(text) => parse(text).and_then(|name| name.map(checked).transpose()),
                Err(_) => Err("is not UTF-8".to_owned()),
            },
            _ => Err("is given more than once".to_owned()),
        };
        read.map(Self).map_err(|wrong| {
            let pointer = "#/header/Content-Disposition".to_owned();
            let detail = format!("Content-Disposition {wrong}");
            Problem::invalid(vec![Invalid { pointer, detail }])
        })
    }
}

/// The name in the header's text; `filename*` comes before `filename`.
fn parse(text: &str) -> Result<Option<String>, String> {
    let malformed = || {
        let text: String = text.chars().take(80).collect();
        format!("is {text:?}: give attachment; filename=\"NAME\"")
    };
    let (mut plain, mut extended) = (None, None);
    let mut rest = text.trim_start_matches(|c: char| is_token(c)).trim_start();
    if rest.len() == text.len() {
        return Err(malformed());
    }
    while !rest.is_empty() {
        rest = rest.strip_prefix(';').ok_or_else(malformed)?.trim_start();
        let Some((name, value)) = rest.split_once('=').filter(|_| !rest.is_empty()) else {
            // A trailing semicolon, as many clients send it.
            return if rest.is_empty() { break } else { Err(malformed()) };
        };
        let name = name.trim_end();
        if name.is_empty() || !name.chars().all(is_token) {
            return Err(malformed());
        }
        let (value, after) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or_else(malformed)?,
            None => {
                let value = value.trim_start();
                let end = value.find([';', ' ', '\t']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        rest = after.trim_start();
        let known = match name.to_ascii_lowercase().as_str() {
            "filename" => &mut plain,
            "filename*" => &mut extended,
            _ => continue,
        };
        if known.replace(value).is_some() {
            return Err(format!("gives {name} more than once"));
        }
    }
    match extended {
        Some(value) => decode(&value).ok_or_else(malformed).map(Some),
        None => Ok(plain),
    }
}

/// A token's character (RFC 9110, section 5.6.2).
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// The text up to the closing quote, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut rest = quoted.char_indices();
    loop {
        match rest.next()? {
            (at, '"') => return Some((text, &quoted[at + 1..])),
            (_, '\\') => text.push(rest.next()?.1),
            (_, other) => text.push(other),
        }
    }
}

/// An extended value (RFC 8187, section 3.2.1): `UTF-8'en'%e2%82%ac`.
fn decode(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    let utf8 = charset.eq_ignore_ascii_case("utf-8");
    let text = percent_decode_str(encoded).decode_utf8().ok()?;
    utf8.then(|| text.into_owned())
}

/// The last segment of a path, or what is wrong with it.
fn checked(path: String) -> Result<String, String> {
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let length = name.chars().count();
    if ["", ".", ".."].contains(&name) {
        let path: String = path.chars().take(40).collect();
        Err(format!("names no file: {path:?}"))
    } else if length > MAX_CHARACTERS {
        Err(format!("names a file with {length} characters: at most {MAX_CHARACTERS} are allowed"))
    } else if name.chars().any(is_control) {
        Err(format!("names a file with control characters: {name:?}"))
    } else {
        Ok(name.to_owned())
    }
}

/// Invisible, or changes the order in which what follows is shown (UAX 9: `exe.gpj` for `jpg.exe`).
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The value of the header, for readers that know `filename*` and for those that do not.
pub fn write(kind: &str, filename: Option<&str>) -> String {
    let Some(name) = filename else { return kind.to_owned() };
    let is_plain = |c: char| (' '..='~').contains(&c) && !r#""\%"#.contains(c);
    let plain = name.replace(|c| !is_plain(c), "_");
    match plain == name {
        true => format!("{kind}; filename=\"{plain}\""),
        false => {
            let encoded = utf8_percent_encode(name, ENCODED);
            format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
        }
    }
}
