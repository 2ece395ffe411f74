//! The issuer's keys (RFC 7517), and which of them may have signed a token.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::identity::refusal::Refusal;

pub struct Key {
    id: Option<String>,
    /// The algorithms that its type and its own `alg` admit (RFC 8725, section 3.1).
    algorithms: Vec<Algorithm>,
    pub decoding: DecodingKey,
}

/// The keys that tokens can be verified with.
#[derive(Default)]
pub struct Keys {
    keys: Vec<Key>,
    /// The JWK Set that they were read from.
    text: Vec<u8>,
    /// Changes whenever the keys do.
    pub generation: u64,
}

#[derive(Deserialize)]
struct JwkSet<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

impl Keys {
    /// From a JWK Set. Keys that are for another use, of an unknown type or not valid are ignored (RFC 7517,
    /// section 5).
    pub fn read(&self, text: Vec<u8>) -> Result<Self, String> {
        let set: JwkSet<'_> = serde_json::from_slice(&text)
            .map_err(|error| format!("this is not a JWK Set (RFC 7517): {error}"))?;
        let keys = set.keys.iter().filter_map(|key| Key::read(key.get())).collect();
        Ok(Self { keys, generation: self.generation + 1, text })
    }

    pub fn are_from(&self, text: &[u8]) -> bool {
        self.generation > 0 && self.text == text
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key with this id; without an id, the only one that fits: if there are several, a token has to
    /// name its key (OpenID Connect Core 1.0, section 10.1).
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&Key, Refusal> {
        let is_named = |key: &&Key| id.is_none() || key.id.as_deref() == id;
        let mut named = self.keys.iter().filter(is_named).peekable();
        if id.is_some() && named.peek().is_none() {
            return Err(Refusal::UnknownKey);
        }
        let mut fitting = named.filter(|key| key.algorithms.contains(&algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (Some(key), Some(_)) if id.is_some() => Ok(key),
            (None, _) if id.is_some() => Err(Refusal::Algorithm),
            _ => Err(Refusal::UnknownKey),
        }
    }
}

impl Key {
    fn read(json: &str) -> Option<Self> {
        let jwk: Jwk = serde_json::from_str(json).ok()?;
        let common = &jwk.common;
        let signs = match (&common.public_key_use, &common.key_operations) {
            (Some(PublicKeyUse::Signature) | None, None) => true,
            (Some(PublicKeyUse::Signature) | None, Some(operations)) => {
                operations.contains(&KeyOperations::Verify)
            }
            _ => false,
        };
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![Algorithm::RS256, Algorithm::PS256],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                vec![Algorithm::ES256]
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                vec![Algorithm::EdDSA]
            }
            _ => Vec::new(),
        };
        algorithms.retain(|&own| common.key_algorithm.is_none_or(|a| a == KeyAlgorithm::from(own)));
        let has_size = match decoding.kind() {
            // ring accepts 2048 to 8192 bits.
            DecodingKeyKind::RsaModulusExponent { n, .. } => (256..=1024).contains(&n.len()),
            DecodingKeyKind::SecretOrDer(point) => [32, 65].contains(&point.len()),
        };
        let usable = signs && has_size && !algorithms.is_empty();
        usable.then(|| Self { id: common.key_id.clone(), algorithms, decoding })
    }
}
