//! The pages for an OpenAPI document, all served from the binary.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::OnceLock,
};

use hyper::body::Bytes;
use poem::{Endpoint, Request, Response, Result, http::header};
use poem_openapi::{OpenApi, OpenApiService};
use serde_yaml::{Mapping, Number, Value};

use crate::{
    clock,
    http::{conditional, terms::Terms},
};

/// A page of up to 1.6 MB, rendered when it is first requested.
pub struct Page {
    pub path: &'static str,
    content_type: &'static str,
    render: Box<dyn Fn() -> String + Send + Sync>,
    made: OnceLock<(Bytes, String)>,
}

/// Swagger UI, ReDoc, and the document itself as JSON and YAML, with the `terms` for callers. `service` is
/// called once for each page.
pub fn pages<A, F>(service: F, terms: &Terms) -> [Page; 4]
where
    A: OpenApi + 'static,
    F: Fn() -> OpenApiService<A, ()> + Clone + Send + Sync + 'static,
{
    type Render<A> = fn(&OpenApiService<A, ()>, &Terms) -> String;
    let pages: [(&str, &str, Render<A>); 4] = [
        ("/docs", "text/html; charset=utf-8", swagger_ui),
        ("/redoc", "text/html; charset=utf-8", redoc),
        ("/openapi.json", "application/json", json),
        ("/openapi.yaml", "application/yaml", yaml),
    ];
    pages.map(|(path, content_type, render)| {
        let (service, terms) = (service.clone(), terms.clone());
        let render = Box::new(move || render(&service(), &terms));
        Page { path, content_type, render, made: OnceLock::new() }
    })
}

/// The document as poem-openapi makes it, plus what it cannot express: tags in the order of the paths
/// instead of the alphabet, limits that are integers, and examples of answers.
fn document<A: OpenApi>(service: &OpenApiService<A, ()>, terms: &Terms) -> Value {
    // JSON is YAML, and serde_yaml keeps the order of keys, which serde_json does not.
    let mut document: Value = serde_yaml::from_str(&service.spec()).expect("made by poem-openapi");
    let paths = document["paths"].as_mapping().into_iter().flat_map(Mapping::values);
    let operations = paths.filter_map(Value::as_mapping).flat_map(Mapping::values);
    let used: Vec<Value> = operations.map(|operation| operation["tags"][0].clone()).collect();
    if let Some(tags) = document["tags"].as_sequence_mut() {
        tags.sort_by_key(|tag| used.iter().position(|name| *name == tag["name"]));
    }
    tidy(&mut document);
    terms.add_to(&mut document);
    let paths = document["paths"].as_mapping_mut().into_iter().flat_map(Mapping::values_mut);
    let operations = paths.filter_map(Value::as_mapping_mut).flat_map(Mapping::iter_mut);
    for (method, operation) in operations {
        if method == "get" {
            conditional::add_to(operation);
        }
        if let Some(responses) = operation["responses"].as_mapping_mut() {
            let mut by_status: Vec<_> = std::mem::take(responses).into_iter().collect();
            by_status.sort_by_key(|(status, _)| status.as_str().map(str::to_owned));
            responses.extend(by_status);
        }
    }
    document
}

/// Turns whole floats into integers; the cast saturates, so the float just above `i64::MAX` becomes it. And
/// moves an answer's example out of its schema, since generators make a separate type for each.
fn tidy(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(whole) = number.as_f64().filter(|float| float.fract() == 0.0) {
                *number = Number::from(whole as i64);
            }
        }
        Value::Sequence(values) => values.iter_mut().for_each(tidy),
        Value::Mapping(fields) => {
            let schema = fields.get("schema").cloned().unwrap_or_default();
            if let (Some(parts), Some(example)) = (schema.get("allOf"), schema.get("example")) {
                fields.insert("schema".into(), parts[0].clone());
                fields.insert("example".into(), example.clone());
            }
            fields.values_mut().for_each(tidy);
        }
        _ => {}
    }
}

fn json<A: OpenApi>(service: &OpenApiService<A, ()>, terms: &Terms) -> String {
    serde_json::to_string_pretty(&document(service, terms)).expect("a document")
}

/// Quotes times, which YAML 1.1 would read as timestamps.
fn yaml<A: OpenApi>(service: &OpenApiService<A, ()>, terms: &Terms) -> String {
    let text = serde_yaml::to_string(&document(service, terms)).expect("a document");
    text.replace(clock::EXAMPLE, &format!("'{}'", clock::EXAMPLE))
}

/// Adds what poem-openapi's template lacks: a doctype, and an icon, so that browsers request none.
fn swagger_ui<A: OpenApi>(service: &OpenApiService<A, ()>, terms: &Terms) -> String {
    let head = r#"<head><link rel="icon" href="data:,">"#;
    let page = service.swagger_ui_html().replacen("<head>", head, 1);
    format!("<!DOCTYPE html>{}", page.replace(&service.spec(), &json(service, terms)))
}

/// Removes the fonts that poem-openapi's template loads from another host.
fn redoc<A: OpenApi>(service: &OpenApiService<A, ()>, terms: &Terms) -> String {
    let page = service.redoc_html().replace(&service.spec(), &json(service, terms));
    let start = page.find(r#"<link href="https://fonts."#).expect("poem-openapi's ReDoc page");
    let end = start + page[start..].find('>').expect("the end of the tag") + 1;
    format!(r#"{}<link rel="icon" href="data:,">{}"#, page[..start].trim_start(), &page[end..])
}

impl Page {
    fn body_and_etag(&self) -> &(Bytes, String) {
        self.made.get_or_init(|| {
            let body = (self.render)();
            let mut hasher = DefaultHasher::new();
            body.hash(&mut hasher);
            (body.into(), format!("\"{:016x}\"", hasher.finish()))
        })
    }
}

impl Endpoint for Page {
    type Output = Response;

    async fn call(&self, _: Request) -> Result<Response> {
        let (body, etag) = self.body_and_etag();
        let response = Response::builder()
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::ETAG, etag);
        Ok(response.content_type(self.content_type).body(body.clone()))
    }
}
