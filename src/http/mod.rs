//! What serves any API over HTTP: the listener, what every request gets, and the forms of bodies,
//! errors and documentation.

pub mod authorization;
mod body;
mod buckets;
mod client;
mod cors;
pub mod docs;
mod impatient;
pub mod json;
pub mod middleware;
pub mod operation;
pub mod problem;
mod rate_limit;
pub mod routes;
pub mod server;
pub mod terms;
