//! The pages of an OpenAPI document, all of them served from the binary.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::OnceLock,
};

use hyper::body::Bytes;
use poem::{
    Request, Response, Result,
    error::MethodNotAllowedError,
    http::{Method, StatusCode, header},
};
use poem_openapi::{OpenApi, OpenApiService};
use serde_json::Value;

use crate::clock;

/// A page of up to 1.6 MB, made when it is first asked for.
pub struct Page {
    pub path: &'static str,
    content_type: &'static str,
    render: Box<dyn Fn() -> String + Send + Sync>,
    made: OnceLock<(Bytes, String)>,
}

/// Swagger UI, ReDoc, and the document itself in both its forms. `service` is made for each page anew,
/// once.
pub fn pages<A, F>(service: F) -> [Page; 4]
where
    A: OpenApi + 'static,
    F: Fn() -> OpenApiService<A, ()> + Clone + Send + Sync + 'static,
{
    type Render<A> = fn(&OpenApiService<A, ()>) -> String;
    let pages: [(&str, &str, Render<A>); 4] = [
        ("/docs", "text/html; charset=utf-8", swagger_ui),
        ("/redoc", "text/html; charset=utf-8", redoc),
        ("/openapi.json", "application/json", OpenApiService::spec),
        ("/openapi.yaml", "application/yaml", yaml),
    ];
    pages.map(|(path, content_type, render)| {
        let service = service.clone();
        let render = Box::new(move || render(&service()));
        Page { path, content_type, render, made: OnceLock::new() }
    })
}

/// Each path of the document, with its methods as the header `Allow` lists them.
pub fn paths(spec: &str) -> Vec<(String, String)> {
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
fn swagger_ui<A: OpenApi>(service: &OpenApiService<A, ()>) -> String {
    let head = r#"<head><link rel="icon" href="data:,">"#;
    format!("<!DOCTYPE html>{}", service.swagger_ui_html().replacen("<head>", head, 1))
}

/// What poem-openapi's template has too much: fonts from another host.
fn redoc<A: OpenApi>(service: &OpenApiService<A, ()>) -> String {
    let page = service.redoc_html();
    let start = page.find(r#"<link href="https://fonts."#).expect("poem-openapi's ReDoc page");
    let end = start + page[start..].find('>').expect("the end of the tag") + 1;
    format!(r#"{}<link rel="icon" href="data:,">{}"#, page[..start].trim_start(), &page[end..])
}

/// YAML 1.1 takes a bare time for more than a text.
fn yaml<A: OpenApi>(service: &OpenApiService<A, ()>) -> String {
    service.spec_yaml().replace(clock::EXAMPLE, &format!("'{}'", clock::EXAMPLE))
}

impl Page {
    fn body_and_etag(&self) -> &(Bytes, String) {
        self.made.get_or_init(|| {
            // 2^63, which the ids stay below, as a whole number: YAML 1.1 takes the other for a text.
            let body = (self.render)().replace("9.223372036854776e18", "9223372036854775808");
            let mut hasher = DefaultHasher::new();
            body.hash(&mut hasher);
            (body.into(), format!("\"{:016x}\"", hasher.finish()))
        })
    }

    pub fn answer(&self, request: &Request) -> Result<Response> {
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
