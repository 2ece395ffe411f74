//! What the wiki is about: a file per resource, with its table, its operations and its rules.

mod failure;
pub mod posts;
mod search;
pub mod subjects;
pub mod users;
