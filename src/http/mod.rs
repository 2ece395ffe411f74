//! What serves any API over HTTP: the listener, the middleware, and the forms of bodies, errors and
//! documentation.

pub mod authorization;
pub mod blob;
mod body;
mod buckets;
pub mod cache;
mod client;
pub mod conditional;
mod cors;
pub mod disposition;
pub mod docs;
pub mod idempotency;
mod impatient;
pub mod json;
pub mod list;
pub mod middleware;
pub mod operation;
pub mod parameter;
pub mod problem;
pub mod range;
mod rate_limit;
pub mod routes;
pub mod server;
mod spans;
pub mod terms;
pub mod text;
pub mod upload;
