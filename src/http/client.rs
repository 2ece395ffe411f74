//! Who sends a request.

use std::net::{IpAddr, SocketAddr};

use poem::{Addr, Request};

use crate::{config::Network, digits};

/// The peer's address, or the one that trusted proxies say it speaks for: the last in
/// `X-Forwarded-For` that is not a trusted proxy itself. `Forwarded` (RFC 7239) is not read: a proxy
/// sets one of the two headers, and would pass on what a client has made up in the other.
pub fn address(request: &Request, trusted_proxies: &[Network]) -> Option<IpAddr> {
    let Addr::SocketAddr(peer) = request.remote_addr().0 else { return None };
    let mut client = peer.ip().to_canonical();
    if trusted_proxies.is_empty() {
        return Some(client);
    }
    let trusted = |ip: &IpAddr| trusted_proxies.iter().any(|n| n.0.contains(ip));
    let lines: Vec<_> = request.headers().get_all("x-forwarded-for").iter().collect();
    for address in lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|b| *b == b',')) {
        match str::from_utf8(address).ok().and_then(parse) {
            Some(address) if trusted(&client) => client = address.to_canonical(),
            _ => break,
        }
    }
    Some(client)
}

/// An address, possibly in brackets, and with a port if the proxy adds one, as Azure's do.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

pub fn text(address: IpAddr) -> String {
    let IpAddr::V4(v4) = address else { return address.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in v4.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        digits::push(&mut text, octet);
    }
    text
}
