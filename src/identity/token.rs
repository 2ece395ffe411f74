//! Access tokens (RFC 9068): what one has to claim, and what it says about the caller.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;

use crate::{
    config::AuthTokenType,
    identity::{keys::Key, refusal::Refusal},
};

/// The longest token, in bytes.
const MAX_BYTES: usize = 16 * 1024;
/// How far the issuer's clock and ours may differ, in seconds.
const LEEWAY: u64 = 60;
/// The longest `sub`, in characters (OpenID Connect Core 1.0, section 2).
const MAX_SUBJECT: usize = 255;
/// The last second of the year 9999.
const LAST: f64 = 253_402_300_799.0;
const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];
/// The scope of callers who may do everything.
pub const ADMIN: &str = "wiki:admin";

/// The caller that a verified token identifies.
pub struct Caller {
    pub issuer: Arc<str>,
    /// The caller's id at this issuer. It appears in no answer and in no log line.
    pub subject: String,
    /// Whether the token has the scope [`ADMIN`].
    pub is_admin: bool,
    /// Until when the token is accepted, in seconds since 1970.
    pub until: u64,
}

/// What a token is required to be.
pub struct Rules {
    issuer: Arc<str>,
    any_type: bool,
    validation: Validation,
}

/// What a token claims to be signed with.
pub struct Signature {
    pub key_id: Option<String>,
    pub algorithm: Algorithm,
}

#[derive(Deserialize)]
struct Claims {
    // A single string: the library would accept a list as well.
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

    /// Reads only the header, which is not trusted yet. Keys that it contains or points to (`jwk`, `jku`,
    /// `x5c`, `x5u`) are ignored.
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

    /// The token's caller, if this key has signed it and its claims are valid.
    pub fn verify(&self, token: &str, algorithm: Algorithm, key: &Key) -> Result<Caller, Refusal> {
        let validation = Validation { algorithms: vec![algorithm], ..self.validation.clone() };
        let decoded = decode::<Claims>(token, &key.decoding, &validation);
        let claims = decoded.map_err(|error| refusal(error.kind()))?.claims;
        if !(0.0..=LAST).contains(&claims.exp) || !(0.0..=LAST).contains(&claims.nbf) {
            return Err(Refusal::Malformed);
        }
        let serde_json::Value::String(subject) = claims.sub else { return Err(Refusal::Subject) };
        // PostgreSQL cannot store NUL.
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
