//! Answers that are files, whole or in part. Headers keep browsers from sniffing another type, and from
//! running what is in them.

use std::ops::Range;

use poem::{
    IntoResponse, Response,
    http::{StatusCode, header},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaHeader, MetaResponse, MetaResponses, Registry},
    types::Type,
};

use crate::http::{
    conditional::NO_CACHE,
    disposition,
    upload::{ANY, IMAGES, binary},
};

pub struct Blob {
    pub bytes: Vec<u8>,
    pub media_type: String,
    pub filename: Option<String>,
    /// The hash of the whole file, in hex; in quotes, its entity tag.
    pub sha256: String,
    /// Of the whole file.
    pub size: u64,
    /// Which part of the file these bytes are, if not all of it.
    pub part: Option<Range<u64>>,
}

/// The entity tag of bytes with this hash.
pub fn tag(sha256: &str) -> String {
    format!("\"{sha256}\"")
}

impl IntoResponse for Blob {
    fn into_response(self) -> Response {
        // Other types, written into the table by hand, are not for a browser to show.
        let is_image = IMAGES.contains(&self.media_type.as_str());
        let media_type = if is_image { &self.media_type } else { ANY };
        let mut response = Response::builder()
            .content_type(media_type)
            .header(header::ETAG, tag(&self.sha256))
            .header(header::CACHE_CONTROL, NO_CACHE)
            .header(header::ACCEPT_RANGES, "bytes")
            // For HEAD: for GET, hyper sets it anyway.
            .header(header::CONTENT_LENGTH, self.bytes.len())
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .header(header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox");
        if self.filename.is_some() || !is_image {
            let kind = if is_image { "inline" } else { "attachment" };
            let disposition = disposition::write(kind, self.filename.as_deref());
            response = response.header(header::CONTENT_DISPOSITION, disposition);
        }
        if let Some(Range { start, end }) = self.part {
            let range = format!("bytes {start}-{}/{}", end - 1, self.size);
            response = response.status(StatusCode::PARTIAL_CONTENT);
            response = response.header(header::CONTENT_RANGE, range);
        }
        response.body(self.bytes)
    }
}

const HEADERS: [(&str, bool, &str); 6] = [
    ("ETAG", true, "Changes with the bytes (RFC 9110, section 8.8.3)."),
    ("CACHE-CONTROL", true, "`no-cache`: revalidate each time, with `If-None-Match`."),
    ("ACCEPT-RANGES", true, "`bytes`: `Range` requests are supported."),
    ("X-CONTENT-TYPE-OPTIONS", true, "`nosniff`: not to be taken for another media type."),
    ("CONTENT-SECURITY-POLICY", true, "`default-src 'none'; sandbox`: nothing in it may run."),
    ("CONTENT-DISPOSITION", false, "What to save it as; `attachment`, unless it is an image."),
];

impl ApiResponse for Blob {
    fn meta() -> MetaResponses {
        let range = ("CONTENT-RANGE", true, "Which bytes these are, and how many there are.");
        let response = |status, description, headers: Vec<_>| MetaResponse {
            description,
            status: Some(status),
            status_range: None,
            content: binary(&[&IMAGES[..], &[ANY]].concat()),
            headers,
        };
        let headers = || HEADERS.map(header_of);
        let ranged = headers().into_iter().chain([header_of(range)]).collect();
        MetaResponses {
            responses: vec![
                response(200, "The bytes.", headers().into()),
                response(206, "The bytes that `Range` asks for.", ranged),
            ],
        }
    }

    fn register(_: &mut Registry) {}
}

fn header_of((name, required, description): (&str, bool, &str)) -> MetaHeader {
    MetaHeader {
        name: name.into(),
        description: Some(description.into()),
        required,
        deprecated: false,
        schema: String::schema_ref(),
    }
}
