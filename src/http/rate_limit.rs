//! How often a client may call.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use poem::http::StatusCode;
use prometheus::{IntCounterVec, Opts};

use crate::{
    config::Config,
    http::{buckets::Buckets, problem::Problem},
    identity::Caller,
    telemetry::metrics::Metrics,
};

pub struct RateLimit {
    buckets: Buckets,
    per_second: f64,
    refusals: IntCounterVec,
}

/// The owner of a bucket.
#[derive(Hash)]
enum Whose<'a> {
    V4(Ipv4Addr),
    /// The first 64 bits: a client is assigned at least a whole /64.
    V6(u64),
    Subject(&'a str),
}

/// What a request takes from the buckets; nothing if there is no limit.
#[derive(Clone, Copy)]
pub struct Toll<'a> {
    pub limit: Option<&'a RateLimit>,
    pub client: Option<IpAddr>,
    /// When the request arrived.
    pub at: Instant,
}

impl RateLimit {
    /// `None` without `RATE_LIMIT_PER_SECOND`.
    pub fn new(config: &Config, metrics: &Metrics) -> Option<Self> {
        let per_second = config.rate_limit_per_second.0?.0;
        let burst = config.rate_limit_burst.0.map(u32::from);
        let help = "Requests refused by the rate limit, by whose bucket was empty";
        let refusals = IntCounterVec::new(Opts::new("rate_limited_total", help), &["by"]);
        let refusals = refusals.expect("valid names");
        // So that both series exist from the start.
        let _ = [ADDRESS, SUBJECT].map(|by| refusals.with_label_values(&[by]));
        metrics.include(refusals.clone());
        Some(Self { buckets: Buckets::new(per_second, burst), per_second, refusals })
    }

    fn refuse(&self, by: &str, who: &str, wait: Duration) -> Problem {
        self.refusals.with_label_values(&[by]).inc();
        let seconds = wait.as_nanos().div_ceil(1_000_000_000);
        let detail = format!(
            "more than {} requests per second from {who}: wait {seconds} s",
            self.per_second
        );
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            .with_header("retry-after", seconds.to_string())
    }
}

const ADDRESS: &str = "address";
const SUBJECT: &str = "subject";

impl Toll<'_> {
    /// For a client that has not authenticated.
    pub fn of_address(self) -> Result<(), Problem> {
        let (Some(limit), Some(client)) = (self.limit, self.client) else { return Ok(()) };
        let taken = limit.buckets.take(Whose::address(client), self.at);
        taken.map_err(|wait| limit.refuse(ADDRESS, "your address", wait))
    }

    /// Once the client has authenticated.
    pub fn give_back(self) {
        if let (Some(limit), Some(client)) = (self.limit, self.client) {
            limit.buckets.give_back(Whose::address(client));
        }
    }

    pub fn of_subject(self, caller: &Caller) -> Result<(), Problem> {
        let Some(limit) = self.limit else { return Ok(()) };
        let taken = limit.buckets.take(Whose::Subject(&caller.subject), self.at);
        taken.map_err(|wait| limit.refuse(SUBJECT, "you", wait))
    }
}

impl Whose<'_> {
    fn address(client: IpAddr) -> Self {
        match client {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(network(address)),
        }
    }
}

fn network(address: Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}
