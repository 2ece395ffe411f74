//! Fetches the issuer's keys: its discovery document, and the JWK Set that it names (OpenID Connect
//! Discovery 1.0, section 4), over https, or over http on this machine. Nothing else is ever called: no
//! redirect is followed, and no proxy is used.

use std::{net::IpAddr, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    header::{ACCEPT, USER_AGENT},
};
use serde::Deserialize;
use tokio::net::lookup_host;

use crate::https;

/// The most bytes of a discovery document or a JWK Set.
pub const MAX_BYTES: usize = 1 << 20;
/// The time limit for each of them, and for both together.
pub const TIMEOUT: Duration = Duration::from_secs(5);

pub struct Client(https::Client);

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Client {
    /// Trusts the certificates in `ca_file`, or, if that is empty, Mozilla's.
    pub fn new(ca_file: &str) -> Result<Self, String> {
        let authorities = (!ca_file.is_empty()).then(|| ca_file.into());
        https::Client::new(authorities).map(Self)
    }

    /// The issuer's JWK Set.
    pub async fn keys(&self, issuer: &str) -> Result<Bytes, String> {
        let url = discovery_url(issuer);
        let text = self.get(&url).await?;
        let found: Discovery = serde_json::from_slice(&text)
            .map_err(|error| format!("{url} is no discovery document: {error}"))?;
        if found.issuer != issuer {
            return Err(format!(
                "{url} is of the issuer {:?}, and not of {issuer:?}: set AUTH_ISSUER to the first, \
                 if it is the one that you mean",
                found.issuer
            ));
        }
        self.get(&found.jwks_uri).await
    }

    async fn get(&self, url: &str) -> Result<Bytes, String> {
        let uri = parse(url)?;
        let answer = async {
            if uri.scheme_str() == Some("http") {
                check_is_here(&uri).await?;
            }
            let request = Request::get(uri)
                .header(ACCEPT, "application/json")
                .header(USER_AGENT, concat!("wiki-service/", env!("CARGO_PKG_VERSION")))
                .body(Full::default())
                .map_err(|error| error.to_string())?;
            let answer = self.0.send(request, TIMEOUT, MAX_BYTES).await?;
            match answer.status() {
                StatusCode::OK => Ok(answer.into_body()),
                other => Err(format!("the answer is {other}")),
            }
        };
        answer.await.map_err(|error: String| format!("{url}: {error}"))
    }
}

fn discovery_url(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// Checks that an issuer may be called.
pub fn check(issuer: &str) -> Result<(), String> {
    if issuer.contains(['?', '#']) {
        return Err("an issuer has neither a query nor a fragment".into());
    }
    parse(issuer)?;
    parse(&discovery_url(issuer)).map(drop)
}

/// Parses an absolute URL, and checks that it may be called.
fn parse(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(format!("{url:?} is no absolute URL: give one such as https://example.org"));
    };
    if authority.as_str().contains('@') {
        return Err(format!("a user is named in the URL of {}", authority.host()));
    }
    let host = host(&uri);
    match scheme {
        "https" => {}
        "http" if host == "localhost" || host.parse().is_ok_and(is_loopback) => {}
        "http" => return Err(format!("{host} is not this machine: it is called over https only")),
        _ => return Err(format!("{url:?} is not https")),
    }
    Ok(uri)
}

/// The host, without the brackets of an IPv6 address.
fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

/// Checks that a name such as `localhost` does resolve to this machine.
async fn check_is_here(uri: &Uri) -> Result<(), String> {
    let found = lookup_host((host(uri), 0)).await.map_err(|error| error.to_string())?;
    match found.map(|address| address.ip()).find(|&ip| !is_loopback(ip)) {
        None => Ok(()),
        Some(ip) => Err(format!("{ip} is not this machine: it is called over https only")),
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
