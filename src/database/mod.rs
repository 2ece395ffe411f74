//! SQLite or PostgreSQL: where it is, the connections to it, its errors and its schema.

mod address;
mod begun;
mod connection;
pub mod error;
mod figures;
mod overdue;
pub mod pool;
mod schema;
mod statement;
