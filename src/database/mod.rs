//! SQLite or PostgreSQL: where it is, the connections to it, its errors and its schema.

mod address;
mod connection;
pub mod error;
mod figures;
pub mod pool;
mod schema;
