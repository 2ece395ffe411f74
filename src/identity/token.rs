//! Access tokens (RFC 9068): what one has to say, and what it says of the caller.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;

use crate::{
    config::AuthTokenType,
    identity::{keys::Key, refusal::Refusal},
};

/// Longest token, in bytes.
const MAX_BYTES: usize = 16 * 1024;
/// How far the issuer's clock and ours may be apart, in seconds.
const LEEWAY: u64 = 60;
/// Longest `sub`, in characters (OpenID Connect Core 1.0, section 2).
const MAX_SUBJECT: usize = 255;
/// The last second of the year 9999.
const LAST: f64 = 253_402_300_799.0;
const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];
/// The scope of those who may do everything.
pub const ADMIN: &str = "wiki:admin";

/// Whom a verified token speaks for.
pub struct Caller {
    pub issuer: Arc<str>,
    /// Who it is with this issuer. In no answer, and in no line of the log.
    pub subject: String,
    /// Whether the token has the scope [`ADMIN`].
    pub is_admin: bool,
    /// Until when the token is taken, in seconds since 1970.
    pub until: u64,
}

/// What a token has to be.
pub struct Rules {
    issuer: Arc<str>,
    any_type: bool,
    validation: Validation,
}

/// By what a token says it is signed.
pub struct Signature {
    pub key_id: Option<String>,
    pub algorithm: Algorithm,
}

#[derive(Deserialize)]
struct Claims {
    // One text: the library would take a list, too.
    #[serde(rename = "iss")]
    _iss: String,
    sub: serde_json::Value,
    exp: f64,
    #[serde(default)]
    nbf: f64,
    scope: Option<String>,
}

impl Rules {
    pub fn new(issuer: &str, audience: &str, types: AuthTokenType) -> Self {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp"]);
        Self { issuer: issuer.into(), any_type: types == AuthTokenType::Any, validation }
    }

    /// Looks at the header alone; nothing of it is believed yet. Keys that it brings along or points to
    /// (`jwk`, `jku`, `x5c`, `x5u`) are not looked at.
    pub fn look(&self, token: &str) -> Result<Signature, Refusal> {
        if token.len() > MAX_BYTES {
            return Err(Refusal::TooLong);
        }
        let header = decode_header(token).map_err(|_| Refusal::Malformed)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(Refusal::Algorithm);
        }
        if header.crit.is_some() {
            return Err(Refusal::Critical);
        }
        let is = |name: &str| header.typ.as_ref().is_some_and(|t| t.eq_ignore_ascii_case(name));
        let is_access_token = is("at+jwt") || is("application/at+jwt");
        if !is_access_token && !(self.any_type && (header.typ.is_none() || is("JWT"))) {
            return Err(Refusal::Type);
        }
        Ok(Signature { key_id: header.kid, algorithm: header.alg })
    }

    /// Whom the token speaks for, if this key has signed it and what it says is valid.
    pub fn verify(&self, token: &str, algorithm: Algorithm, key: &Key) -> Result<Caller, Refusal> {
        let validation = Validation { algorithms: vec![algorithm], ..self.validation.clone() };
        let decoded = decode::<Claims>(token, &key.decoding, &validation);
        let claims = decoded.map_err(|error| refusal(error.kind()))?.claims;
        if !(0.0..=LAST).contains(&claims.exp) || !(0.0..=LAST).contains(&claims.nbf) {
            return Err(Refusal::Malformed);
        }
        let serde_json::Value::String(subject) = claims.sub else { return Err(Refusal::Subject) };
        // PostgreSQL has no NUL.
        if subject.is_empty() || subject.contains('\0') || subject.chars().count() > MAX_SUBJECT {
            return Err(Refusal::Subject);
        }
        Ok(Caller {
            issuer: self.issuer.clone(),
            subject,
            is_admin: claims.scope.is_some_and(|scope| scope.split(' ').any(|s| s == ADMIN)),
            until: claims.exp as u64 + LEEWAY,
        })
    }
}

fn refusal(error: &ErrorKind) -> Refusal {
    match error {
        ErrorKind::InvalidSignature => Refusal::Signature,
        ErrorKind::ExpiredSignature => Refusal::Expired,
        ErrorKind::ImmatureSignature => Refusal::NotYetValid,
        ErrorKind::InvalidIssuer => Refusal::Issuer,
        ErrorKind::InvalidAudience => Refusal::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Refusal::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => Refusal::Issuer,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Refusal::Algorithm,
        _ => Refusal::Malformed,
    }
}
