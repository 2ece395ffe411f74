//! The types of values: what a variable may be set to.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use poem::http::Uri;
use serde::{Deserialize, Deserializer, de::Error as _};

/// A time limit in seconds, possibly with a fraction, and never zero.
#[derive(Clone, Copy)]
pub struct Seconds(pub Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Duration::try_from_secs_f64(f64::deserialize(deserializer)?) {
            Ok(limit) if !limit.is_zero() && limit.as_secs() <= 86_400 => Ok(Self(limit)),
            _ => Err(D::Error::custom("give seconds above 0 and at most 86400")),
        }
    }
}

/// A duration in seconds, possibly with a fraction, or zero.
#[derive(Clone, Copy)]
pub struct SecondsOrZero(pub Duration);

impl<'de> Deserialize<'de> for SecondsOrZero {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Duration::try_from_secs_f64(f64::deserialize(deserializer)?) {
            Ok(span) if span.as_secs() <= 86_400 => Ok(Self(span)),
            _ => Err(D::Error::custom("give seconds from 0 to 86400")),
        }
    }
}

/// Values separated by commas.
#[derive(Clone)]
pub struct List<T>(pub Vec<T>);

impl<'de, T: std::str::FromStr<Err: std::fmt::Display>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| item.parse().map_err(|error| D::Error::custom(format!("{item}: {error}"))))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// An optional value.
#[derive(Clone, Copy)]
pub struct Given<T>(pub Option<T>);

impl<'de, T: std::str::FromStr<Err: std::fmt::Display>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "" => Ok(Self(None)),
            text => text.parse().map(Some).map(Self).map_err(D::Error::custom),
        }
    }
}

/// A rate per second: from once in 1000 s to a million times.
#[derive(Clone, Copy)]
pub struct Rate(pub f64);

impl std::str::FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(Self(rate)),
            _ => Err("give requests per second, from 0.001 to 1000000"),
        }
    }
}

/// A network such as `10.0.0.0/8`, or one address.
#[derive(Clone, Copy)]
pub struct Network(pub IpNet);

impl std::str::FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map(Self)
            .map_err(|_| "give an address or a network such as 10.0.0.0/8")
    }
}

/// An origin as browsers send it, such as `https://example.org`, or `*`.
#[derive(Clone)]
pub struct Origin(pub String);

impl std::str::FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = text.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some());
        match uri.and_then(|uri| uri.authority().map(|host| text.ends_with(host.as_str()))) {
            Some(true) => Ok(Self(text.to_owned())),
            _ if text == "*" => Ok(Self(text.to_owned())),
            _ => Err("give an origin such as https://example.org, or *"),
        }
    }
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Search {
    False,
    True,
    Drop,
}

/// Who may change what is there, and add to it.
#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Editing {
    Off,
    Author,
    Users,
    Anyone,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Auto,
    Text,
    Json,
}

/// Who may read, while `AUTH_ISSUER` is set.
#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum AuthRead {
    Public,
    Token,
}

/// The `typ` that an access token must have.
#[derive(Clone, Copy, Deserialize, PartialEq)]
pub enum AuthTokenType {
    /// RFC 9068.
    #[serde(rename = "at+jwt")]
    AccessToken,
    #[serde(rename = "any")]
    Any,
}
