//! Who may call what: bearer tokens (RFC 6750).

use std::sync::Arc;

use poem::{
    Request, RequestBody,
    error::ResponseError,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use prometheus::{IntCounterVec, Opts};

use crate::{
    config::{AuthRead, Config},
    http::{problem::Problem, rate_limit::Toll, routes::Route},
    identity::{Caller, Refusal, Verifier, token},
    telemetry::metrics::Metrics,
};

pub struct Authorization {
    verifier: Verifier,
    read: AuthRead,
    refusals: IntCounterVec,
}

/// Whether an answer depends on who has asked.
#[derive(Default)]
pub struct Admitted {
    depends: bool,
    has_token: bool,
}

impl Authorization {
    pub fn new(verifier: Verifier, config: &Config, metrics: &Metrics) -> Self {
        let help = "Requests refused for want of a valid token, or of permission";
        let refusals =
            IntCounterVec::new(Opts::new("auth_refusals_total", help), &["status", "reason"]);
        let refusals = refusals.expect("valid names");
        metrics.include(refusals.clone());
        metrics.include(verifier.figures());
        Self { verifier, read: config.auth_read, refusals }
    }

    /// Lets the request go on to `route`, and attaches its caller. A route that `is_open` ignores tokens. A
    /// caller who is not known yet is charged to the bucket of its address until its signature is verified.
    pub async fn admit(
        &self,
        request: &mut Request,
        route: Option<&Route>,
        admitted: &mut Admitted,
        toll: Toll<'_>,
    ) -> Result<(), Problem> {
        if route.is_some_and(|route| route.is_open) {
            return toll.of_address();
        }
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        let needs_token = self.read == AuthRead::Token || route.is_some() && !reads;
        admitted.depends = true;
        let bearer = bearer(request.headers());
        let token = bearer.ok().flatten();
        admitted.has_token = token.is_some();
        let known = token.and_then(|token| self.verifier.known(token));
        if known.is_none() {
            toll.of_address()?;
        }
        let caller = match (known, bearer.map_err(refuse)?) {
            (Some(caller), _) => caller,
            (None, Some(token)) => {
                // Boxed: it is rare, and its size would cost every request.
                let caller = Box::pin(self.verifier.verify(token)).await.map_err(refuse)?;
                toll.give_back();
                caller
            }
            (None, None) if needs_token => return Err(refuse(Refusal::Missing)),
            (None, None) => return Ok(()),
        };
        toll.of_subject(&caller)?;
        request.extensions_mut().insert(caller);
        Ok(())
    }

    pub fn count(&self, problem: &Problem) {
        if let Some(refusal) = problem.refusal {
            self.refusals.with_label_values(&[problem.status().as_str(), refusal.reason()]).inc();
        }
    }
}

impl Admitted {
    /// Tells caches for whom the answer is.
    pub fn mark(&self, headers: &mut HeaderMap) {
        if self.has_token {
            let private = HeaderValue::from_static("private, no-cache");
            headers.insert(header::CACHE_CONTROL, private);
        }
        if self.depends {
            headers.append(header::VARY, HeaderValue::from_static("authorization"));
        }
    }
}

/// The bearer token of a request, if it has one. Other schemes are not for us, but for a proxy, say.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let value = value.as_bytes();
    let (scheme, rest) =
        value.split_at(value.iter().position(|&b| b == b' ').unwrap_or(value.len()));
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer");
    match (values.next(), is_bearer) {
        (None, false) => Ok(None),
        (None, true) => {
            let token = str::from_utf8(rest).ok().map(|rest| rest.trim_matches(' '));
            // `all` would stop early, which keeps the loop from being vectorized.
            let is_graphic = |t: &str| t.bytes().fold(true, |so, b| so & b.is_ascii_graphic());
            let token = token.filter(|t| !t.is_empty() && is_graphic(t));
            token.map(Some).ok_or(Refusal::Malformed)
        }
        (Some(_), _) => Err(Refusal::Malformed),
    }
}

/// 401, or 503 while the token cannot be verified.
fn refuse(refusal: Refusal) -> Problem {
    let (status, challenge) = match refusal {
        Refusal::NoKeys => return Problem::unavailable(refusal.detail()),
        Refusal::Missing => (StatusCode::UNAUTHORIZED, "Bearer".to_owned()),
        _ => {
            let detail = refusal.detail();
            let challenge =
                format!(r#"Bearer error="invalid_token", error_description="{detail}""#);
            (StatusCode::UNAUTHORIZED, challenge)
        }
    };
    let mut problem = Problem::new(status, refusal.detail());
    problem.refusal = Some(refusal);
    problem.with_header("www-authenticate", challenge)
}

/// 401: a token is required.
pub fn unknown() -> Problem {
    refuse(Refusal::Missing)
}

/// 403: the token lacks the required scope.
pub fn insufficient_scope() -> Problem {
    let scope = token::ADMIN;
    let mut problem = Problem::new(StatusCode::FORBIDDEN, Refusal::Scope.detail());
    problem.refusal = Some(Refusal::Scope);
    let challenge = format!(r#"Bearer error="insufficient_scope", scope="{scope}""#);
    problem.with_header("www-authenticate", challenge)
}

/// 403: it is somebody else's.
pub fn not_own(detail: impl Into<String>) -> Problem {
    let mut problem = Problem::new(StatusCode::FORBIDDEN, detail);
    problem.refusal = Some(Refusal::NotOwn);
    problem
}

/// Who must have sent a request for an operation to be allowed.
pub trait Party: Sized {
    /// Its refusal comes before anything else that is wrong with the request.
    fn of(request: &Request) -> Result<Self, Problem>;
}

/// Who sent the request, as the first parameter of an operation.
pub struct By<T>(pub T);

impl<'a, T: Party> ApiExtractor<'a> for By<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::PoemExtractor];

    type ParamType = ();
    type ParamRawType = ();

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self(T::of(request)?))
    }
}

/// The caller by the request's token. `None` without a token, and always while authentication is off.
impl Party for Option<Arc<Caller>> {
    fn of(request: &Request) -> Result<Self, Problem> {
        Ok(request.extensions().get().cloned())
    }
}

/// A caller who may do everything.
pub struct Admin(pub Arc<Caller>);

impl Party for Admin {
    fn of(request: &Request) -> Result<Self, Problem> {
        let caller = request.extensions().get::<Arc<Caller>>();
        let admin = caller.filter(|caller| caller.is_admin).cloned();
        admin.map(Self).ok_or_else(insufficient_scope)
    }
}
