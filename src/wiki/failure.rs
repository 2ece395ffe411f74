//! How operations of the wiki fail.

use poem::http::StatusCode;

use crate::http::operation::{
    CUT_SHORT, INTERNAL, INVALID, Kind, NOT_JSON, Status, TOO_LARGE, TOO_SLOW, UNAVAILABLE,
};

const NOT_FOUND: Status = (StatusCode::NOT_FOUND, "No such user or post.");

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

/// Writing what stands alone.
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

/// Writing what there is once for each subject.
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

pub const SWITCHED_OFF: Status =
    (StatusCode::FORBIDDEN, "Nobody may, or not this caller: `EDITING` says who may what.");
const NOT_THERE: Status = (StatusCode::NOT_FOUND, "It is not there.");

/// Reading a picture or an attachment.
pub struct ReadMediaFailure;
impl Kind for ReadMediaFailure {
    const STATUSES: &[Status] = &[
        NOT_THERE,
        (StatusCode::RANGE_NOT_SATISFIABLE, "There are no bytes of that range."),
        INVALID,
        INTERNAL,
        UNAVAILABLE,
    ];
}

const NO_IMAGE: Status = (
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "The body is no GIF, JPEG, PNG or WebP image, is another one than it is said to be, or is compressed.",
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

/// Deleting a picture or an attachment.
pub struct DeleteMediaFailure;
impl Kind for DeleteMediaFailure {
    const STATUSES: &[Status] = &[SWITCHED_OFF, NOT_THERE, INVALID, INTERNAL, UNAVAILABLE];
}
