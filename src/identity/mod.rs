//! Whose a bearer token is: a resource server's part (RFC 6750, 9068, 8725). Who the service is
//! called by is http/'s business, what the caller may do the wiki's.

mod cache;
mod crypto;
mod fetch;
mod keys;
mod refusal;
mod source;
pub mod token;
mod verifier;

pub use crate::identity::{refusal::Refusal, token::Caller, verifier::Verifier};
