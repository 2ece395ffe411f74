//! The wiki itself: a file per resource, with its table, its operations and its rules.

use poem_openapi::Tags;

pub mod actor;
pub mod attachments;
mod change;
pub mod comments;
pub mod diff;
mod editing;
mod failure;
pub mod media;
pub mod pictures;
pub mod post;
pub mod posts;
pub mod reactions;
pub mod revisions;
mod search;
mod slots;
pub mod subjects;
pub mod user;
pub mod users;

/// The groups of operations in the document.
#[derive(Tags)]
enum Tag {
    /// Those who write posts.
    Users,
    /// Texts by users.
    Posts,
    /// What users say about posts.
    Comments,
    /// How users react to posts.
    Reactions,
}
