//! What the wiki is about: a file per resource, with its table, its operations and its rules.

use poem_openapi::Tags;

pub mod attachments;
mod editing;
mod failure;
pub mod media;
pub mod pictures;
pub mod posts;
mod search;
mod slots;
pub mod subjects;
pub mod users;

/// By which the document groups operations, in its own order.
#[derive(Tags)]
enum Tag {
    /// Those who write posts.
    Users,
    /// Texts by users.
    Posts,
}
