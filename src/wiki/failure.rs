//! How operations of the wiki fail.

use poem::http::StatusCode;

use crate::http::operation::{
    CUT_SHORT, INTERNAL, INVALID, Kind, NOT_JSON, Status, TOO_LARGE, TOO_SLOW, UNAVAILABLE,
};

const NOT_FOUND: Status = (StatusCode::NOT_FOUND, "There is nothing with this id.");

const SWITCHED_OFF: Status =
    (StatusCode::FORBIDDEN, "Nobody may do this, or not this caller: see `EDITING`.");
const CHANGED: Status =
    (StatusCode::PRECONDITION_FAILED, "It has been changed: its `ETag` is none of `If-Match`.");

/// Reading by id.
pub struct ReadFailure;
impl Kind for ReadFailure {
    const STATUSES: &[Status] = &[NOT_FOUND, INVALID, INTERNAL, UNAVAILABLE];
}

/// Reading a list.
pub struct ListFailure;
impl Kind for ListFailure {
    const STATUSES: &[Status] = &[INVALID, INTERNAL, UNAVAILABLE];
}

/// Writing something that refers to nothing else.
pub struct WriteFailure;
impl Kind for WriteFailure {
    const STATUSES: &[Status] =
        &[CUT_SHORT, TOO_SLOW, TOO_LARGE, NOT_JSON, INVALID, INTERNAL, UNAVAILABLE];
}

/// Reading one's own.
pub struct ReadOwnFailure;
impl Kind for ReadOwnFailure {
    const STATUSES: &[Status] =
        &[(StatusCode::NOT_FOUND, "The caller has no user yet."), INTERNAL, UNAVAILABLE];
}

const TAKEN: Status = (StatusCode::CONFLICT, "The subject has a user already: `Location`.");

/// Writing what each subject has once.
pub struct WriteOwnFailure;
impl Kind for WriteOwnFailure {
    const STATUSES: &[Status] =
        &[CUT_SHORT, TOO_SLOW, TAKEN, TOO_LARGE, NOT_JSON, INVALID, INTERNAL, UNAVAILABLE];
}

/// Binding a subject to a user.
pub struct BindFailure;
impl Kind for BindFailure {
    const STATUSES: &[Status] = &[
        CUT_SHORT,
        NOT_FOUND,
        TOO_SLOW,
        TAKEN,
        TOO_LARGE,
        NOT_JSON,
        INVALID,
        INTERNAL,
        UNAVAILABLE,
    ];
}

/// Writing what belongs to a user.
pub struct WriteForUserFailure;
impl Kind for WriteForUserFailure {
    const STATUSES: &[Status] =
        &[CUT_SHORT, NOT_FOUND, TOO_SLOW, TOO_LARGE, NOT_JSON, INVALID, INTERNAL, UNAVAILABLE];
}

/// Editing a post.
pub struct EditFailure;
impl Kind for EditFailure {
    const STATUSES: &[Status] = &[
        CUT_SHORT,
        SWITCHED_OFF,
        NOT_FOUND,
        TOO_SLOW,
        CHANGED,
        TOO_LARGE,
        NOT_JSON,
        INVALID,
        (StatusCode::PRECONDITION_REQUIRED, "`If-Match` is missing."),
        INTERNAL,
        UNAVAILABLE,
    ];
}

/// Deleting a post.
pub struct DeleteFailure;
impl Kind for DeleteFailure {
    const STATUSES: &[Status] = &[SWITCHED_OFF, NOT_FOUND, CHANGED, INVALID, INTERNAL, UNAVAILABLE];
}

/// Deleting a user.
pub struct DeleteUserFailure;
impl Kind for DeleteUserFailure {
    const STATUSES: &[Status] = &[
        SWITCHED_OFF,
        NOT_FOUND,
        (StatusCode::CONFLICT, "The user has posts: `Location`."),
        INVALID,
        INTERNAL,
        UNAVAILABLE,
    ];
}

/// Adding, with a body, something that belongs to a post and a user.
pub struct AddFailure;
impl Kind for AddFailure {
    const STATUSES: &[Status] = &[
        CUT_SHORT,
        SWITCHED_OFF,
        NOT_FOUND,
        TOO_SLOW,
        TOO_LARGE,
        NOT_JSON,
        INVALID,
        INTERNAL,
        UNAVAILABLE,
    ];
}

/// Changing something without a body.
pub struct ChangeFailure;
impl Kind for ChangeFailure {
    const STATUSES: &[Status] = &[SWITCHED_OFF, NOT_FOUND, INVALID, INTERNAL, UNAVAILABLE];
}

/// Reading a picture or an attachment.
pub struct ReadMediaFailure;
impl Kind for ReadMediaFailure {
    const STATUSES: &[Status] = &[
        NOT_FOUND,
        (StatusCode::RANGE_NOT_SATISFIABLE, "There are no bytes of that range."),
        INVALID,
        INTERNAL,
        UNAVAILABLE,
    ];
}

const NO_IMAGE: Status = (
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "The body is not a GIF, JPEG, PNG or WebP image, not of its declared type, or compressed.",
);

/// Setting a picture.
pub struct WritePictureFailure;
impl Kind for WritePictureFailure {
    const STATUSES: &[Status] = &[
        CUT_SHORT,
        SWITCHED_OFF,
        (StatusCode::NOT_FOUND, "No such user."),
        TOO_SLOW,
        (StatusCode::PAYLOAD_TOO_LARGE, "The image is larger than 256 KiB."),
        NO_IMAGE,
        INVALID,
        INTERNAL,
        UNAVAILABLE,
    ];
}

/// Adding an attachment.
pub struct WriteAttachmentFailure;
impl Kind for WriteAttachmentFailure {
    const STATUSES: &[Status] = &[
        CUT_SHORT,
        SWITCHED_OFF,
        (StatusCode::NOT_FOUND, "No such post."),
        TOO_SLOW,
        (StatusCode::CONFLICT, "The post has ten attachments, which is the most."),
        TOO_LARGE,
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is a form, or is compressed."),
        INVALID,
        INTERNAL,
        UNAVAILABLE,
    ];
}
