//! `--metrics`: what is counted, for whoever asks over HTTP/1.0.
//!
//! One thread, one request at a time, each with so much time and so many bytes: a page for a scraper
//! and for `curl`, on loopback unless told otherwise, and nothing that could get in the shards' way.

use crate::Failure;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The longest head of a request. Browsers send some 700 bytes, scrapers less.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// How long one request may take, reading and writing each.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after an accept that failed, for want of descriptors as a rule.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Where the page is.
const PATH: &str = "/metrics";

/// Writes the page.
pub type Page = Box<dyn Fn() -> String + Send>;

/// Listens on `address`; the page is there from now on, until the process ends.
///
/// # Errors
/// If the address cannot be listened on.
pub fn listen(address: SocketAddr) -> Result<(TcpListener, String), Failure> {
    let cannot = |error| format!("cannot listen on {address} for --metrics: {error}");
    let listener = TcpListener::bind(address).map_err(cannot)?;
    let bound = listener.local_addr().map_err(cannot)?;
    Ok((listener, format!("metrics on http://{bound}{PATH}")))
}

/// Answers whoever asks.
///
/// # Errors
/// If there is no thread for that.
pub fn answer(listener: TcpListener, page: Page) -> io::Result<()> {
    std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(ACCEPT_AGAIN_AFTER);
                continue;
            };
            if let Err(error) = answer_one(stream, &page) {
                tracing::debug!(%error, "a request for metrics was not answered");
            }
        }
    })?;
    Ok(())
}

fn answer_one(mut stream: TcpStream, page: &Page) -> io::Result<()> {
    let head = read_head(&mut stream)?;
    let answer = answer_to(&head, page);
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(answer.as_bytes())
}

/// Everything up to the empty line, as far as it is read at all.
fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let give_up = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut bytes = [0; 1_024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other("the head is too long, or takes too long"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&bytes[..count]),
        }
    }
    Ok(head)
}

fn answer_to(head: &[u8], page: &Page) -> String {
    let first_line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let first_line = String::from_utf8_lossy(first_line);
    let mut words = first_line.split(' ');
    let (method, target) = (words.next(), words.next());
    let path = target.map(|target| target.split('?').next().unwrap_or_default());
    let (status, body) = match (method, path) {
        (Some("GET"), Some(PATH)) => ("200 OK", page()),
        (Some("GET"), _) => ("404 Not Found", format!("see {PATH}\n")),
        _ => ("405 Method Not Allowed", "GET is all that is answered\n".to_owned()),
    };
    let bytes = body.len();
    format!(
        "HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {bytes}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_where_it_is_said_to_be() {
        let page: Page = Box::new(|| "catena_requests_total 3\n".to_owned());
        for (request, status) in [
            ("GET /metrics HTTP/1.1", "200 OK"),
            ("GET /metrics?debug=1 HTTP/1.0", "200 OK"),
            ("GET / HTTP/1.1", "404 Not Found"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
            ("\u{fffd}", "405 Method Not Allowed"),
        ] {
            let answer = answer_to(format!("{request}\r\nHost: x\r\n\r\n").as_bytes(), &page);
            assert!(answer.starts_with(&format!("HTTP/1.0 {status}\r\n")), "{request}: {answer}");
            let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
            assert!(answer.contains(&format!("Content-Length: {}\r\n", body.len())));
            assert_eq!(body.contains("catena_requests_total 3"), status == "200 OK");
        }
    }
}
