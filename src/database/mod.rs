//! SQLite or PostgreSQL: where it is, the connections to it, its errors and its schema.

mod address;
mod begun;
mod build;
mod confirm;
mod connection;
pub mod error;
mod figures;
mod fill;
mod find;
pub mod indexes;
pub mod insert;
mod libpq;
mod overdue;
mod passfile;
pub mod pool;
mod postgres;
mod schema;
mod spans;
mod sqlite;
mod statement;
mod texts;
