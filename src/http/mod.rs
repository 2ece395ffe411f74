//! What serves any API over HTTP: the listener, what every request gets, and the forms of bodies,
//! errors and documentation.

mod body;
mod client;
mod cors;
pub mod docs;
mod impatient;
pub mod json;
pub mod middleware;
pub mod operation;
pub mod problem;
mod routes;
pub mod server;
mod spans;
