//! What the wiki is about: a file per resource, with its table, its operations and its rules.

use poem_openapi::Tags;

mod change;
pub mod diff;
mod editing;
mod failure;
pub mod post;
pub mod posts;
pub mod revisions;
mod search;
pub mod subjects;
pub mod user;
pub mod users;

/// By which the document groups operations, in its own order.
#[derive(Tags)]
enum Tag {
    /// Those who write posts.
    Users,
    /// Texts by users.
    Posts,
}
