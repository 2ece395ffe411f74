//! What the document says of tokens, while they are asked for.

use poem::http::StatusCode;
use poem_openapi::types::ToJSON;
use serde_json::json;
use serde_yaml::{Mapping, Value};

use crate::{
    config::AuthRead,
    http::problem::{CONTENT_TYPE, Problem},
};

#[derive(Clone)]
pub struct Security {
    pub issuer: String,
    pub read: AuthRead,
    /// The paths that are there for everybody.
    pub open: Vec<String>,
}

const REFUSALS: [(StatusCode, &str); 2] = [
    (StatusCode::UNAUTHORIZED, "No token, or one that is not valid."),
    (StatusCode::FORBIDDEN, "The token does not allow this: it lacks a scope, or is another's."),
];

impl Security {
    pub fn is_open(&self, path: &str) -> bool {
        self.open.iter().any(|open| open == path)
    }

    /// Adds the scheme, and to each operation that is not open how it is used and what comes of it.
    pub fn add_to(&self, document: &mut Value) {
        let description = format!("An access token (RFC 9068) from {}.", self.issuer);
        document["components"]["securitySchemes"] = yaml(json!({
            "bearer": {
                "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": description,
            }
        }));
        let Some(paths) = document["paths"].as_mapping_mut() else { return };
        let guarded = paths
            .iter_mut()
            .filter(|(path, _)| !path.as_str().is_some_and(|path| self.is_open(path)));
        for (_, operations) in guarded {
            for (method, operation) in operations.as_mapping_mut().into_iter().flatten() {
                let writes = method != "get";
                operation["security"] = yaml(match writes || self.read == AuthRead::Token {
                    true => json!([{"bearer": []}]),
                    false => json!([{}, {"bearer": []}]),
                });
                let Some(responses) = operation["responses"].as_mapping_mut() else { continue };
                for (status, description) in REFUSALS.into_iter().take(1 + usize::from(writes)) {
                    responses.insert(status.as_str().into(), refusal(status, description));
                }
                let mut sorted: Vec<(Value, Value)> =
                    std::mem::take(responses).into_iter().collect();
                sorted.sort_by_key(|(status, _)| status.as_str().map(str::to_owned));
                *responses = Mapping::from_iter(sorted);
            }
        }
    }
}

fn refusal(status: StatusCode, description: &str) -> Value {
    yaml(json!({
        "description": description,
        "headers": {
            "WWW-Authenticate": {
                "description": "What to send instead (RFC 6750, section 3); not where it is another's",
                "required": status == StatusCode::UNAUTHORIZED,
                "schema": {"type": "string"},
            }
        },
        "content": {
            CONTENT_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": Problem::example(status, description).to_json(),
            }
        },
    }))
}

fn yaml(json: serde_json::Value) -> Value {
    serde_yaml::to_value(json).expect("JSON is YAML")
}
