//! Where the issuer's keys come from: its discovery document and the JWK Set that this names (OpenID
//! Connect Discovery 1.0, section 4), by https, or by http on this machine. Nothing else is ever called:
//! no redirect is followed, and no proxy is asked.

use std::{fs, io, net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use poem::http::{Request, StatusCode, Uri, header, uri::Authority};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// Most bytes of a discovery document or a JWK Set.
pub const MAX_BYTES: usize = 1 << 20;

pub struct Client(TlsConnector);

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// An absolute URL that may be called.
struct Url {
    uri: Uri,
    authority: Authority,
    is_https: bool,
}

impl Client {
    /// Trusts the certificates in `ca_file`, or, if that is empty, Mozilla's.
    pub fn new(ca_file: &str) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        if ca_file.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        } else {
            let pem = fs::read(ca_file).map_err(|error| format!("{ca_file}: {error}"))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                certificate
                    .map_err(|error| error.to_string())
                    .and_then(|certificate| roots.add(certificate).map_err(|e| e.to_string()))
                    .map_err(|error| format!("{ca_file}: {error}"))?;
            }
            if roots.is_empty() {
                return Err(format!("{ca_file}: there is no certificate in it"));
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what they take")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// The issuer's JWK Set.
    pub async fn keys(&self, issuer: &str) -> Result<Vec<u8>, String> {
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

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let parsed = Url::parse(url)?;
        let answer = async {
            let stream = parsed.connect().await.map_err(|error| error.to_string())?;
            if !parsed.is_https {
                return parsed.ask(stream).await;
            }
            let name = ServerName::try_from(parsed.host().to_owned()).map_err(|e| e.to_string())?;
            let stream = self.0.connect(name, stream).await.map_err(|error| error.to_string())?;
            parsed.ask(stream).await
        };
        answer.await.map_err(|error| format!("{url}: {error}"))
    }
}

/// Where the discovery document of an issuer is.
fn discovery_url(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// Whether an issuer may be called.
pub fn check(issuer: &str) -> Result<(), String> {
    if issuer.contains(['?', '#']) {
        return Err("an issuer has neither a query nor a fragment".into());
    }
    Url::parse(issuer)?;
    Url::parse(&discovery_url(issuer)).map(drop)
}

impl Url {
    fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority().cloned()) else {
            return Err(format!(
                "{url:?} is no absolute URL: give one such as https://example.org"
            ));
        };
        let is_https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(format!("{url:?} is not https")),
        };
        if authority.as_str().contains('@') {
            return Err(format!("a user is named in the URL of {}", authority.host()));
        }
        let url = Self { uri, authority, is_https };
        let host = url.host();
        if !is_https && host != "localhost" && !host.parse().is_ok_and(is_loopback) {
            return Err(format!("{host} is not this machine: it is called by https only"));
        }
        Ok(url)
    }

    /// Without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        self.authority.host().trim_matches(['[', ']'])
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let port = self.authority.port_u16().unwrap_or(if self.is_https { 443 } else { 80 });
        let found = lookup_host((self.host(), port)).await?;
        let addresses: Vec<SocketAddr> =
            found.filter(|address| self.is_https || is_loopback(address.ip())).collect();
        TcpStream::connect(&addresses[..]).await
    }

    async fn ask<S>(&self, stream: S) -> Result<Vec<u8>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, self.authority.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("wiki-service/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
        // It ends with the sender and the body.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes().to_vec())
    }
}

fn is_loopback(ip: std::net::IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
