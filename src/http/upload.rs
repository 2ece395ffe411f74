//! Bodies that are files. Their media type is recognized by their first bytes; they are never decoded.

use hyper::body::Bytes;
use poem::{
    Request, RequestBody, Result,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::{Binary, Payload},
    registry::{MetaMediaType, MetaRequest, MetaSchema},
};

use crate::http::problem::{Invalid, Problem};

/// The image types that are recognized by their first bytes.
pub const IMAGES: [&str; 4] = ["image/gif", "image/jpeg", "image/png", "image/webp"];
/// The media type of everything else.
pub const ANY: &str = "application/octet-stream";

const SEND_IMAGE: &(&str, &str) = &("accept", "image/gif, image/jpeg, image/png, image/webp");
const SEND_FILE: &(&str, &str) = &("accept", ANY);

/// The media type of an image, by its signature (WHATWG MIME Sniffing, section 6.1).
fn image(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

/// A body that is an image of at most `MAX` bytes, and of the type that it is declared as.
pub struct Image<const MAX: usize> {
    pub bytes: Bytes,
    pub media_type: &'static str,
}

/// A body that may be any file.
pub struct File {
    pub bytes: Bytes,
    /// An image's, or [`ANY`].
    pub media_type: &'static str,
}

/// 415, if the body is compressed.
pub fn refuse_coded(headers: &HeaderMap) -> Result<(), Problem> {
    let is_plain = |coding: &HeaderValue| {
        coding.is_empty() || coding.as_bytes().eq_ignore_ascii_case(b"identity")
    };
    if headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        return Ok(());
    }
    let detail = "send the body as it is, without a Content-Encoding";
    Err(Problem::unsupported(detail, &("accept-encoding", "identity")))
}

/// The declared media type, without parameters and in lower case.
fn declared(request: &Request) -> Option<String> {
    let media_type = request.content_type()?.split(';').next()?.trim().to_ascii_lowercase();
    (!media_type.is_empty()).then_some(media_type)
}

fn empty(wanted: &str) -> Problem {
    let detail = format!("the body is empty: send {wanted}");
    Problem::invalid(vec![Invalid { pointer: "#".into(), detail }])
}

impl<'a, const MAX: usize> ApiExtractor<'a> for Image<MAX> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest { description: None, content: sent(&IMAGES, Some(MAX)), required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> Result<Self> {
        refuse_coded(request.headers())?;
        let declared = declared(request);
        let unsupported = |detail: String| Problem::unsupported(detail, SEND_IMAGE);
        if let Some(other) = declared.as_deref().filter(|declared| !IMAGES.contains(declared)) {
            let detail = format!("send a GIF, JPEG, PNG or WebP image, not {other}");
            return Err(unsupported(detail).into());
        }
        let bytes = body.take()?.into_bytes().await?;
        if bytes.len() > MAX {
            let detail = format!("the image is larger than {MAX} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into());
        }
        if bytes.is_empty() {
            return Err(empty("an image").into());
        }
        match (image(&bytes), declared) {
            (None, _) => {
                let detail = "the body does not begin as a GIF, JPEG, PNG or WebP image does";
                Err(unsupported(detail.into()).into())
            }
            (Some(media_type), Some(other)) if other != media_type => {
                let detail = format!("the body begins as {media_type}, but is said to be {other}");
                Err(unsupported(detail).into())
            }
            (Some(media_type), _) => Ok(Self { bytes, media_type }),
        }
    }
}

impl<'a> ApiExtractor<'a> for File {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest { description: None, content: sent(&[ANY], None), required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> Result<Self> {
        refuse_coded(request.headers())?;
        if declared(request).is_some_and(|declared| declared == "multipart/form-data") {
            let detail = "send the file itself as the body, not a form with it: as \
                          application/octet-stream or whatever it is";
            return Err(Problem::unsupported(detail, SEND_FILE).into());
        }
        let bytes = body.take()?.into_bytes().await?;
        if bytes.is_empty() {
            return Err(empty("a file").into());
        }
        Ok(Self { media_type: image(&bytes).unwrap_or(ANY), bytes })
    }
}

/// For the document: request bodies of these media types.
fn sent(media_types: &[&'static str], max_length: Option<usize>) -> Vec<MetaMediaType> {
    let mut content = binary(media_types);
    for MetaMediaType { schema, .. } in &mut content {
        let limits = MetaSchema { min_length: Some(1), max_length, ..MetaSchema::ANY };
        *schema = schema.clone().merge(limits);
    }
    content
}

/// For the document: bytes of these media types.
pub fn binary(media_types: &[&'static str]) -> Vec<MetaMediaType> {
    let schema = || <Binary<Bytes> as Payload>::schema_ref();
    media_types
        .iter()
        .map(|content_type| MetaMediaType { content_type, schema: schema() })
        .collect()
}
