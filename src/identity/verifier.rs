//! The verifier: from a token to its caller.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{
    Gauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    config::Config,
    identity::{
        cache::Cache,
        crypto,
        fetch::{self, Client},
        refusal::Refusal,
        source::{Origin, Source},
        token::{Caller, Rules},
    },
};

pub struct Verifier {
    rules: Rules,
    source: Arc<Source>,
    verified: Cache,
}

impl Verifier {
    /// By `AUTH_ISSUER` and the variables that go with it; `None` without it.
    pub fn new(config: &Config) -> Result<Option<Self>, String> {
        let issuer = &config.auth_issuer;
        if issuer.is_empty() {
            return Ok(None);
        }
        crypto::install();
        let origin = if config.auth_jwks_file.is_empty() {
            fetch::check(issuer).map_err(|error| format!("AUTH_ISSUER: {error}"))?;
            let client = Client::new(&config.auth_ca_file)
                .map_err(|error| format!("AUTH_CA_FILE: {error}"))?;
            Origin::Issuer(client, issuer.clone())
        } else {
            Origin::File(config.auth_jwks_file.clone().into())
        };
        Ok(Some(Self {
            rules: Rules::new(issuer, &config.auth_audience, config.auth_token_type),
            source: Arc::new(Source::new(origin)),
            verified: Cache::default(),
        }))
    }

    /// Keeps the issuer's keys fresh from now on. A key file that cannot be read now fails the start.
    pub async fn start(&self, config: &Config) -> Result<(), String> {
        let file = &config.auth_jwks_file;
        if !file.is_empty() {
            self.source.refresh().await.map_err(|error| format!("AUTH_JWKS_FILE: {error}"))?;
            if self.source.is_empty() {
                return Err(format!("AUTH_JWKS_FILE: {file} holds no key that can be used"));
            }
        }
        let source = self.source.clone();
        tokio::spawn(async move { source.keep().await });
        Ok(())
    }

    /// The token's caller, if the token was verified before and is still valid.
    pub fn known(&self, token: &str) -> Option<Arc<Caller>> {
        self.verified.find(token, self.source.generation(), now())
    }

    /// The token's caller. May have to wait for the issuer's keys.
    pub async fn verify(&self, token: &str) -> Result<Arc<Caller>, Refusal> {
        let signature = self.rules.look(token)?;
        let id = signature.key_id.as_deref();
        let keys = self.source.keys_for(id, signature.algorithm).await?;
        let key = keys.find(id, signature.algorithm)?;
        let caller = Arc::new(self.rules.verify(token, signature.algorithm, key)?);
        self.verified.insert(token, caller.clone(), keys.generation);
        Ok(caller)
    }

    pub fn figures(&self) -> impl Collector + use<> {
        let help = "Seconds since the issuer's keys were last seen";
        let age = Gauge::new("auth_keys_age_seconds", help).expect("a valid name");
        Age { age, source: self.source.clone() }
    }
}

struct Age {
    age: Gauge,
    source: Arc<Source>,
}

impl Collector for Age {
    fn desc(&self) -> Vec<&Desc> {
        self.age.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.age.set(self.source.age());
        self.age.collect()
    }
}

/// In seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
