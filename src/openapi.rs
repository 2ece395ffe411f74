//! The OpenAPI document and its pages, all of it served from the binary.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, OnceLock},
};

use hyper::body::Bytes;
use poem::{
    Endpoint, IntoEndpoint, Request, Response, Result,
    error::MethodNotAllowedError,
    http::{Method, StatusCode, header},
};
use poem_openapi::{
    ApiResponse, ExtraHeader, LicenseObject, OpenApi, OpenApiService, Tags, types::Type,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    app::App, clock, health::Health, json::Json, metrics::MetricsApi, posts::Posts, problem::Kind,
    users::Users,
};

#[derive(Tags)]
pub enum Tag {
    /// Those who write posts.
    Users,
    /// Texts by users.
    Posts,
    /// Probes and metrics, for those who run the service.
    Operations,
}

/// 201, with where the new thing is.
#[derive(ApiResponse)]
pub enum Created<T: Type + Serialize + Send> {
    /// It was created.
    #[oai(status = 201)]
    Created(
        Json<T>,
        /// The path of what was created.
        #[oai(header = "Location")]
        String,
    ),
}

impl<T: Type + Serialize + Send> Created<T> {
    pub fn at(location: String, body: T) -> Self {
        Self::Created(Json(body), location)
    }
}

const NOT_FOUND: (StatusCode, &str) = (StatusCode::NOT_FOUND, "No such user or post.");
const TOO_SLOW: (StatusCode, &str) =
    (StatusCode::REQUEST_TIMEOUT, "The body took too long to arrive (10 s by default).");
const TOO_LARGE: (StatusCode, &str) = (
    StatusCode::PAYLOAD_TOO_LARGE,
    "The body is larger than the service takes (1 MiB by default).",
);
const NOT_JSON: (StatusCode, &str) =
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not `application/json`.");
const CUT_SHORT: (StatusCode, &str) = (StatusCode::BAD_REQUEST, "The body ended too early.");
const INVALID: (StatusCode, &str) = (
    StatusCode::UNPROCESSABLE_ENTITY,
    "The request is not valid; `errors` lists all that is wrong.",
);
const INTERNAL: (StatusCode, &str) =
    (StatusCode::INTERNAL_SERVER_ERROR, "A mistake of the service; its log has the cause.");
const UNAVAILABLE: (StatusCode, &str) =
    (StatusCode::SERVICE_UNAVAILABLE, "The database is not available, or a time limit has passed.");

/// Reading by id.
pub struct ReadFailure;
impl Kind for ReadFailure {
    const STATUSES: &[(StatusCode, &str)] = &[NOT_FOUND, INVALID, INTERNAL, UNAVAILABLE];
}

/// Writing what stands alone.
pub struct WriteFailure;
impl Kind for WriteFailure {
    const STATUSES: &[(StatusCode, &str)] =
        &[CUT_SHORT, TOO_SLOW, TOO_LARGE, NOT_JSON, INVALID, INTERNAL, UNAVAILABLE];
}

/// Writing what belongs to a user.
pub struct WriteForUserFailure;
impl Kind for WriteForUserFailure {
    const STATUSES: &[(StatusCode, &str)] =
        &[CUT_SHORT, NOT_FOUND, TOO_SLOW, TOO_LARGE, NOT_JSON, INVALID, INTERNAL, UNAVAILABLE];
}

/// Asking whether requests can be served.
pub struct NotReady;
impl Kind for NotReady {
    const STATUSES: &[(StatusCode, &str)] = &[
        INTERNAL,
        (StatusCode::SERVICE_UNAVAILABLE, "Starting, stopping, or without a database."),
    ];
}

/// The API. Its server is where the document is, so that the pages work under any host and prefix.
fn api(app: &Arc<App>) -> OpenApiService<impl OpenApi + use<>, ()> {
    let api = (
        Users(app.clone()),
        Posts(app.clone()),
        Health(app.clone()),
        MetricsApi(app.clone()),
        Index,
    );
    OpenApiService::new(api, "Wiki", env!("CARGO_PKG_VERSION"))
        .description(
            "Users and their posts. Every error is an `application/problem+json`, but for requests \
             that are not valid HTTP: an empty 400, 414 or 431.",
        )
        .license(LicenseObject::new(env!("CARGO_PKG_LICENSE")).url(env!("CARGO_PKG_REPOSITORY")))
        .extra_response_header::<String, _>(
            ExtraHeader::new("X-Request-Id")
                .description("The request's id: the one that was sent, or a new one."),
        )
        .server("./")
}

/// The API with its document and pages, and every path with its methods.
pub fn routes(app: &Arc<App>) -> (impl Endpoint<Output = Response> + use<>, Vec<(String, String)>) {
    let pages: [(&str, &str, Render); 4] = [
        ("/docs", "text/html; charset=utf-8", swagger_ui),
        ("/redoc", "text/html; charset=utf-8", redoc),
        ("/openapi.json", "application/json", |app| api(app).spec()),
        ("/openapi.yaml", "application/yaml", yaml),
    ];
    let pages = pages.map(|(path, content_type, render)| Page {
        app: app.clone(),
        path,
        content_type,
        render,
        made: OnceLock::new(),
    });
    let api = api(app);
    let mut paths = paths(&api.spec());
    for path in pages.iter().map(|page| page.path).chain(["/"]) {
        paths.push((path.to_owned(), "GET, HEAD".to_owned()));
    }
    (Routes { pages, api: api.into_endpoint() }, paths)
}

/// The pages beside the API: a `Route` around it would find its way, and write the path anew, for
/// every request twice.
struct Routes<E> {
    pages: [Page; 4],
    api: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Routes<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        match self.pages.iter().find(|page| page.path == request.uri().path()) {
            Some(page) => page.answer(&request),
            None => self.api.call(request).await,
        }
    }
}

/// Each path of the document, with its methods as the header `Allow` lists them.
fn paths(spec: &str) -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(spec).expect("made by poem-openapi");
    let paths = document["paths"].as_object().expect("an object");
    let allow = |operations: &Value| {
        let methods: Vec<String> =
            operations.as_object().expect("an object").keys().map(|m| m.to_uppercase()).collect();
        methods.join(", ").replace("GET", "GET, HEAD")
    };
    paths.iter().map(|(path, operations)| (path.clone(), allow(operations))).collect()
}

/// What poem-openapi's template lacks: a doctype, and an icon that is not looked for elsewhere.
fn swagger_ui(app: &Arc<App>) -> String {
    let head = r#"<head><link rel="icon" href="data:,">"#;
    format!("<!DOCTYPE html>{}", api(app).swagger_ui_html().replacen("<head>", head, 1))
}

/// What poem-openapi's template has too much: fonts from another host.
fn redoc(app: &Arc<App>) -> String {
    let page = api(app).redoc_html();
    let start = page.find(r#"<link href="https://fonts."#).expect("poem-openapi's ReDoc page");
    let end = start + page[start..].find('>').expect("the end of the tag") + 1;
    format!(r#"{}<link rel="icon" href="data:,">{}"#, page[..start].trim_start(), &page[end..])
}

/// YAML 1.1 takes a bare time for more than a text.
fn yaml(app: &Arc<App>) -> String {
    api(app).spec_yaml().replace(clock::EXAMPLE, &format!("'{}'", clock::EXAMPLE))
}

type Render = fn(&Arc<App>) -> String;

/// A page of up to 1.6 MB, made when it is first asked for.
struct Page {
    app: Arc<App>,
    path: &'static str,
    content_type: &'static str,
    render: Render,
    made: OnceLock<(Bytes, String)>,
}

impl Page {
    fn body_and_etag(&self) -> &(Bytes, String) {
        self.made.get_or_init(|| {
            // 2^63, which the ids stay below, as a whole number: YAML 1.1 takes the other for a text.
            let body =
                (self.render)(&self.app).replace("9.223372036854776e18", "9223372036854775808");
            let mut hasher = DefaultHasher::new();
            body.hash(&mut hasher);
            (body.into(), format!("\"{:016x}\"", hasher.finish()))
        })
    }

    fn answer(&self, request: &Request) -> Result<Response> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return Err(MethodNotAllowedError.into());
        }
        let (body, etag) = self.body_and_etag();
        let response = Response::builder()
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::ETAG, etag);
        Ok(match request.header(header::IF_NONE_MATCH) {
            Some(etags) if etags.contains(etag) => {
                response.status(StatusCode::NOT_MODIFIED).finish()
            }
            _ => response.content_type(self.content_type).body(body.clone()),
        })
    }
}

struct Index;

#[derive(ApiResponse)]
enum ToDocs {
    #[oai(status = 307)]
    See(#[oai(header = "Location")] String),
}

#[OpenApi]
impl Index {
    #[oai(path = "/", method = "get", hidden)]
    async fn index(&self) -> ToDocs {
        // Relative, so that it works under a prefix.
        ToDocs::See("docs".into())
    }
}
