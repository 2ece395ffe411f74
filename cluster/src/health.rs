//! A request like a user's, through port 8080, that reads from the database and writes nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub const PORT: u16 = 8080;
/// No user has it: ids count up from 1. The service answers so only after querying the database.
const LAST_USER: &str = "/users/9223372036854775807";

pub fn api() -> Result<(), String> {
    let answer = get(LAST_USER)?;
    // An Ingress controller that does not know the API yet answers 404 too, but not in this form. 401 and 429 are the API's where
    // reading needs a token or is limited: it is in its Service, so it has a database, or had one two minutes ago.
    if matches!(answer.status, 401 | 404 | 429) && answer.head.contains("application/problem+json")
    {
        Ok(())
    } else {
        Err(format!(
            "port {PORT} answers {} to {LAST_USER}, unlike the API with a working database",
            answer.status
        ))
    }
}

struct Answer {
    status: u16,
    head: String,
}

fn get(path: &str) -> Result<Answer, String> {
    let limit = Duration::from_secs(5);
    let failed = |error| format!("port {PORT}: {error}");
    let address = SocketAddr::from(([127, 0, 0, 1], PORT));
    let mut stream = TcpStream::connect_timeout(&address, limit).map_err(failed)?;
    stream.set_read_timeout(Some(limit)).map_err(failed)?;
    stream.set_write_timeout(Some(limit)).map_err(failed)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nUser-Agent: wiki-cluster\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut bytes = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut bytes).map_err(failed)?;
    parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| format!("port {PORT}: the response is not HTTP"))
}

fn parse(answer: &str) -> Option<Answer> {
    let head = answer.split("\r\n\r\n").next()?.to_ascii_lowercase();
    let status = head.strip_prefix("http/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Answer { status, head })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer =
            parse("HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\n\r\n{}")
                .unwrap();
        assert_eq!(answer.status, 404);
        assert!(answer.head.contains("application/problem+json"));
        assert!(parse("SSH-2.0").is_none());
    }
}
