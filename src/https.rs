//! Our own requests to other servers: HTTP/1.1, over TLS if the URL says `https`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, Uri,
    body::Bytes,
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// Sends requests, each on a new connection: they are rare, and so each resolves the name again.
pub struct Client {
    /// A PEM file of CA certificates to trust instead of Mozilla's.
    authorities: Option<PathBuf>,
}

impl Client {
    /// Fails if the file of `authorities` has no certificate.
    pub fn new(authorities: Option<PathBuf>) -> Result<Self, String> {
        let client = Self { authorities };
        client.tls().map(|_| client)
    }

    /// Sends a request to an absolute URL, and returns the answer, whatever its status. Fails, with a line
    /// for people, if there is none within `limit`, or if its body has more than `most` bytes.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        limit: Duration,
        most: usize,
    ) -> Result<Response<Bytes>, String> {
        let sent = timeout(limit, self.send_without_limit(request, most)).await;
        sent.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs_f64())))
    }

    async fn send_without_limit(
        &self,
        mut request: Request<Full<Bytes>>,
        most: usize,
    ) -> Result<Response<Bytes>, String> {
        let url = std::mem::take(request.uri_mut());
        let (host, authority) = url.host().zip(url.authority()).ok_or("the URL has no host")?;
        let host = host.trim_matches(['[', ']']);
        let is_tls = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        *request.uri_mut() = Uri::from(url.path_and_query().ok_or("the URL has no path")?.clone());
        let name = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
        request.headers_mut().insert(HOST, name);

        let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).ok();
        if !is_tls {
            return exchange(stream, request, most).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let tls = TlsConnector::from(Arc::new(self.tls()?)).connect(name, stream).await;
        exchange(tls.map_err(|error| format!("TLS: {error}"))?, request, most).await
    }

    /// Built for each connection, since the file may have changed.
    fn tls(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore { roots: Vec::new() };
        match &self.authorities {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(file) => {
                let refusal = |why: String| format!("{}: {why}", file.display());
                let found = CertificateDer::pem_file_iter(file);
                for certificate in found.map_err(|error| refusal(error.to_string()))? {
                    let certificate = certificate.map_err(|error| refusal(error.to_string()))?;
                    roots.add(certificate).map_err(|error| refusal(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(refusal("it has no certificate in it (PEM)".into()));
                }
            }
        }
        let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
    most: usize,
) -> Result<Response<Bytes>, String> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(reason)?.into_parts();
        let body = Limited::new(body, most).collect().await;
        let body = body.map_err(|error| format!("the answer's body: {error}"))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    let connection = async {
        // An error of the connection is also the answer's.
        connection.await.ok();
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        () = connection => unreachable!("it never says that it has ended"),
    }
}

/// An error with its causes, which hyper's own message leaves out.
fn reason(error: hyper::Error) -> String {
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
