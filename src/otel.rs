//! OpenTelemetry's variables, as far as they are about traces. Platforms set them for every process, so
//! without an endpoint for spans they are all ignored.
//!
//! They are the specification's ("Environment Variable Specification", "OpenTelemetry Protocol
//! Exporter").

use std::path::PathBuf;

use hyper::{HeaderMap, Uri, header::HeaderName, http::HeaderValue};
use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;

/// Name, default and description of each variable.
pub const VARIABLES: &[(&str, &str, &[&str])] = &[
    (
        ENDPOINT,
        "",
        &["URL of a collector, such as http://collector:4318; traces go to /v1/traces below it"],
    ),
    (
        TRACES_ENDPOINT,
        "",
        &[
            "URL for traces only, used as it is. It overrides the one above, as",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS, _CERTIFICATE and _PROTOCOL override those below",
        ],
    ),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "",
        &["Headers for the collector: NAME=VALUE, separated by commas; a comma in a value is %2C"],
    ),
    (
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "",
        &["PEM file of CA certificates to trust for the collector, instead of Mozilla's"],
    ),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOL, &["No other protocol is supported"]),
    ("OTEL_TRACES_EXPORTER", "otlp", &["`none` sends no traces, even if there is an endpoint"]),
    (
        SAMPLER,
        "parentbased_always_on",
        &[
            "Which requests are traced: always_on, always_off or traceidratio; after parentbased_, this",
            "rule is only for requests whose caller has not decided",
        ],
    ),
    (SAMPLER_ARG, "1", &["The share of requests that traceidratio traces, from 0 to 1"]),
    (SERVICE_NAME, "wiki-service", &["Name of the service in traces"]),
    (
        ATTRIBUTES,
        "",
        &["Further attributes of the service: NAME=VALUE, separated by commas; a comma is %2C"],
    ),
    ("OTEL_SDK_DISABLED", "false", &["`true` switches traces off"]),
];

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const PROTOCOL: &str = "http/protobuf";

/// Where spans are sent, which requests have them, and under what name.
pub struct Otel {
    pub endpoint: Uri,
    pub headers: HeaderMap,
    /// The variable that names the file, and the file.
    pub certificate: Option<(String, PathBuf)>,
    pub sampler: Sampler,
    /// The service's attributes, `service.name` among them.
    pub attributes: Vec<(String, String)>,
}

impl Otel {
    /// Reads the variables with `value`, which returns `None` for an empty one. `None` if there is no
    /// endpoint, or if another variable switches traces off.
    pub fn read(
        value: impl Fn(&str) -> Result<Option<String>, String>,
    ) -> Result<Option<Self>, String> {
        // A value that is not UTF-8 is no endpoint.
        let is_set = |name| value(name).is_ok_and(|value| value.is_some());
        if !is_set(TRACES_ENDPOINT) && !is_set(ENDPOINT) {
            return Ok(None);
        }
        let one_of = |name: &'static str, values: &[&str], default: &str| {
            let given = value(name)?.unwrap_or_else(|| default.to_owned()).to_lowercase();
            match values.contains(&given.as_str()) {
                true => Ok(given),
                false => Err(refusal(name, &given, format!("give {}", values.join(" or ")))),
            }
        };
        if one_of("OTEL_SDK_DISABLED", &["true", "false"], "false")? == "true"
            || one_of("OTEL_TRACES_EXPORTER", &["otlp", "none"], "otlp")? == "none"
        {
            return Ok(None);
        }
        // The variable for traces only takes precedence.
        let specific = |rest: &str| {
            let names =
                [format!("OTEL_EXPORTER_OTLP_TRACES_{rest}"), format!("OTEL_EXPORTER_OTLP_{rest}")];
            for name in names {
                if let Some(value) = value(&name)? {
                    return Ok::<_, String>(Some((name, value)));
                }
            }
            Ok(None)
        };
        if let Some((name, protocol)) = specific("PROTOCOL")?
            && protocol != PROTOCOL
        {
            return Err(refusal(&name, &protocol, format!("give {PROTOCOL}, the only one here")));
        }
        let headers = match specific("HEADERS")? {
            Some((name, text)) => headers(&text).map_err(|why| secret(&name, why))?,
            None => HeaderMap::new(),
        };
        let name = value(SERVICE_NAME)?;
        Ok(Some(Self {
            endpoint: endpoint(&value)?,
            headers,
            certificate: specific("CERTIFICATE")?.map(|(name, file)| (name, file.into())),
            sampler: sampler(&value)?,
            attributes: attributes(name, value(ATTRIBUTES)?)?,
        }))
    }
}

fn refusal(name: &str, value: &str, advice: impl std::fmt::Display) -> String {
    format!("{name}={value:?} is not valid: {advice}; see wiki-service --help")
}

/// A refusal without the value, which may hold a password.
fn secret(name: &str, why: impl std::fmt::Display) -> String {
    format!("{name} is not valid: {why}; see wiki-service --help")
}

fn endpoint(value: impl Fn(&str) -> Result<Option<String>, String>) -> Result<Uri, String> {
    let (name, text) = match value(TRACES_ENDPOINT)? {
        Some(url) => (TRACES_ENDPOINT, url),
        None => (ENDPOINT, value(ENDPOINT)?.unwrap_or_default()),
    };
    let url: Uri = text
        .parse()
        .ok()
        .filter(|url: &Uri| matches!(url.scheme_str(), Some("http" | "https")))
        .ok_or_else(|| secret(name, "give a URL such as http://collector:4318"))?;
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(secret(name, "a password belongs in OTEL_EXPORTER_OTLP_HEADERS"));
    }
    match name {
        ENDPOINT if url.query().is_some() => Err(secret(
            name,
            format!("/v1/traces is appended, so it must have no ?: try {TRACES_ENDPOINT}"),
        )),
        ENDPOINT => {
            let url = format!("{}/v1/traces", text.trim_end_matches('/'));
            url.parse().map_err(|error| secret(name, error))
        }
        _ => Ok(url),
    }
}

/// `NAME=VALUE` pairs, separated by commas; the values are percent-encoded.
fn pairs(text: &str) -> Result<Vec<(&str, String)>, &'static str> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let (name, value) =
                item.split_once('=').ok_or("give NAME=VALUE, separated by commas")?;
            let value = percent_decode_str(value.trim()).decode_utf8();
            Ok((name.trim(), value.map_err(|_| "a % in it is not UTF-8")?.into_owned()))
        })
        .collect()
}

fn headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(text)? {
        let header: HeaderName =
            name.parse().map_err(|_| format!("{name:?} is no header's name"))?;
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| format!("the value of {header} is not valid in a header"))?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

fn attributes(name: Option<String>, text: Option<String>) -> Result<Vec<(String, String)>, String> {
    let text = text.unwrap_or_default();
    let pairs = pairs(&text).map_err(|why| refusal(ATTRIBUTES, &text, why))?;
    let own = [("service.name", "wiki-service"), ("service.version", env!("CARGO_PKG_VERSION"))];
    let own = own.map(|(name, value)| (name, value.to_owned()));
    let all = own.into_iter().chain(pairs).map(|(name, value)| (name.to_owned(), value));
    Ok(all.chain(name.map(|name| ("service.name".to_owned(), name))).collect())
}

fn sampler(value: impl Fn(&str) -> Result<Option<String>, String>) -> Result<Sampler, String> {
    let given = value(SAMPLER)?.unwrap_or_else(|| "parentbased_always_on".to_owned());
    let name = given.to_lowercase();
    let (root, is_parent_based) = match name.strip_prefix("parentbased_") {
        Some(root) => (root, true),
        None => (name.as_str(), false),
    };
    let root = match root {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => {
            let share = value(SAMPLER_ARG)?.unwrap_or_else(|| "1".to_owned());
            let number = share.parse().ok().filter(|number| (0.0..=1.0).contains(number));
            Sampler::TraceIdRatioBased(
                number.ok_or_else(|| refusal(SAMPLER_ARG, &share, "give a number from 0 to 1"))?,
            )
        }
        _ => {
            return Err(refusal(
                SAMPLER,
                &given,
                "give always_on, always_off or traceidratio, or one of them after parentbased_",
            ));
        }
    };
    Ok(if is_parent_based { Sampler::ParentBased(Box::new(root)) } else { root })
}
