//! Requests that may be repeated (draft-ietf-httpapi-idempotency-key-header).

use poem::http::{HeaderMap, HeaderValue};
use poem_openapi::registry::MetaSchema;
use ring::digest::{Context, SHA256};
use sea_orm::EntityTrait;
use serde::Serialize;

use crate::{
    database::insert::{Digest, Once},
    http::{
        parameter::InHead,
        problem::{Invalid, Problem},
    },
    identity::Caller,
    request,
};

/// The header `Idempotency-Key`: a structured string (RFC 9651, section 3.3.3), or the same without quotes.
pub struct IdempotencyKey(Option<Vec<u8>>);

const NAME: &str = "Idempotency-Key";
const MAX_LENGTH: usize = 255;
/// Bare, or quoted.
const PATTERN: &str = r#"^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$"#;

impl IdempotencyKey {
    /// What keeps the row of these `fields`, stored in these `columns`, from being written twice. Keys are
    /// the `caller`'s own; without a caller, they are shared by all.
    pub fn once<E: EntityTrait>(
        &self,
        caller: Option<&Caller>,
        fields: &impl Serialize,
        columns: &'static [E::Column],
    ) -> Option<Once<E>> {
        let key = digest_of(caller, self.0.as_ref()?);
        let fields = digest(&[&serde_json::to_vec(fields).expect("serializable")]);
        Some(Once { key, fields, columns })
    }

    /// A 422: the key was sent with other fields before.
    pub fn used() -> Problem {
        let wrong = "was sent before with other fields: a different request needs a different key";
        refusal(wrong.to_owned())
    }
}

/// Covers the key and its caller, since two callers may use the same key. None of these texts holds NUL.
fn digest_of(caller: Option<&Caller>, key: &[u8]) -> Digest {
    match caller {
        Some(Caller { issuer, subject, .. }) => {
            digest(&[issuer.as_bytes(), b"\0", subject.as_bytes(), b"\0", key])
        }
        None => digest(&[key]),
    }
}

fn digest(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("256 bits")
}

fn parse(value: &[u8]) -> Option<Vec<u8>> {
    let key = match value.split_first() {
        Some((b'"', quoted)) => unquote(quoted)?,
        _ => value.to_vec(),
    };
    let is_key = (1..=MAX_LENGTH).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    is_key.then_some(key)
}

/// The text up to the closing quote, which has to be the end.
fn unquote(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::new();
    let mut rest = quoted.iter();
    loop {
        match rest.next()? {
            b'"' => return rest.next().is_none().then_some(key),
            b'\\' => key.push(*rest.next().filter(|escaped| b"\"\\".contains(escaped))?),
            other => key.push(*other),
        }
    }
}

fn refusal(wrong: String) -> Problem {
    let pointer = format!("#/header/{NAME}");
    Problem::invalid(vec![Invalid { pointer, detail: format!("{NAME} {wrong}") }])
}

impl InHead for IdempotencyKey {
    fn schema() -> MetaSchema {
        MetaSchema { pattern: Some(PATTERN.into()), ..MetaSchema::new("string") }
    }

    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(NAME).iter().map(HeaderValue::as_bytes);
        let wrong = match (values.next(), values.next()) {
            (None, _) => return Ok(Self(None)),
            (Some(value), None) => match parse(value) {
                Some(key) => {
                    request::note_repeatable();
                    return Ok(Self(Some(key)));
                }
                None => {
                    let given: String = String::from_utf8_lossy(value).chars().take(40).collect();
                    format!("is {given:?}: give 1 to {MAX_LENGTH} visible ASCII characters")
                }
            },
            _ => "is given more than once".to_owned(),
        };
        Err(refusal(wrong))
    }
}
