//! Verifies bearer tokens, as a resource server does (RFC 6750, 9068, 8725). Reading a token from the
//! request is up to http/, and what its caller may do is up to wiki/.

mod cache;
mod crypto;
mod fetch;
mod keys;
mod refusal;
mod source;
pub mod token;
mod verifier;

pub use crate::identity::{refusal::Refusal, token::Caller, verifier::Verifier};
