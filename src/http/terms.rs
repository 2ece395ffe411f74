//! What the document says about the demands on callers: tokens and the rate limit.

use poem::http::StatusCode;
use poem_openapi::types::ToJSON;
use serde_json::json;
use serde_yaml::Value;

use crate::{
    config::AuthRead,
    http::problem::{CONTENT_TYPE, Problem},
};

#[derive(Clone, Default)]
pub struct Terms {
    /// The paths that need no token and have no rate limit.
    pub open: Vec<String>,
    pub security: Option<Security>,
    pub rate_limit: bool,
}

#[derive(Clone)]
pub struct Security {
    pub issuer: String,
    pub read: AuthRead,
}

const REFUSALS: [(StatusCode, &str); 2] = [
    (StatusCode::UNAUTHORIZED, "No token, or one that is not valid."),
    (
        StatusCode::FORBIDDEN,
        "The token lacks a scope, this is somebody else's, or `EDITING` does not allow it.",
    ),
];
const TOO_MANY: (StatusCode, &str) =
    (StatusCode::TOO_MANY_REQUESTS, "Too many requests from this address, or of this subject.");

impl Terms {
    pub fn is_open(&self, path: &str) -> bool {
        self.open.iter().any(|open| open == path)
    }

    /// Adds the security scheme, and to each operation that is not open its requirements and refusals.
    pub fn add_to(&self, document: &mut Value) {
        if let Some(Security { issuer, .. }) = &self.security {
            let description = format!("An access token (RFC 9068) from {issuer}.");
            document["components"]["securitySchemes"] = yaml(json!({
                "bearer": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": description,
                }
            }));
        }
        let Some(paths) = document["paths"].as_mapping_mut() else { return };
        let guarded = paths
            .iter_mut()
            .filter(|(path, _)| !path.as_str().is_some_and(|path| self.is_open(path)));
        for (_, operations) in guarded {
            for (method, operation) in operations.as_mapping_mut().into_iter().flatten() {
                self.add_to_operation(operation, method != "get");
            }
        }
    }

    fn add_to_operation(&self, operation: &mut Value, writes: bool) {
        let mut more = Vec::new();
        if let Some(Security { read, .. }) = self.security {
            operation["security"] = yaml(match writes || read == AuthRead::Token {
                true => json!([{"bearer": []}]),
                false => json!([{}, {"bearer": []}]),
            });
            let refusals = REFUSALS.into_iter().take(1 + usize::from(writes));
            more.extend(
                refusals.map(|(status, description)| (status, description, challenge(status))),
            );
        }
        if self.rate_limit {
            more.push((TOO_MANY.0, TOO_MANY.1, retry_after()));
        }
        let Some(responses) = operation["responses"].as_mapping_mut() else { return };
        for (status, description, headers) in more {
            // The operation's own description comes first.
            let own = responses.get(status.as_str()).and_then(|own| own["description"].as_str());
            let description = match own {
                Some(own) => format!("{own} {description}"),
                None => description.to_owned(),
            };
            responses.insert(status.as_str().into(), response(status, &description, headers));
        }
    }
}

fn challenge(status: StatusCode) -> serde_json::Value {
    json!({
        "WWW-Authenticate": {
            "description": "What to send instead (RFC 6750, section 3); not if it is somebody else's",
            "required": status == StatusCode::UNAUTHORIZED,
            "schema": {"type": "string"},
        }
    })
}

fn retry_after() -> serde_json::Value {
    json!({
        "Retry-After": {
            "description": "Seconds until the next request is served",
            "required": true,
            "schema": {"type": "integer", "minimum": 1},
        }
    })
}

fn response(status: StatusCode, description: &str, headers: serde_json::Value) -> Value {
    yaml(json!({
        "description": description,
        "headers": headers,
        "content": {
            CONTENT_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": Problem::example(status, description).to_json(),
            }
        },
    }))
}

pub fn yaml(json: serde_json::Value) -> Value {
    serde_yaml::to_value(json).expect("JSON is YAML")
}
