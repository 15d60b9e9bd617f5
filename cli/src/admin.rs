//! Pages for whoever looks after a process, over HTTP/1.0: `/metrics`, `/healthz`.
//!
//! One thread, one request at a time, each with so much time and so many bytes: for a scraper and for
//! `curl`, on loopback unless told otherwise, and nothing that could get in the shards' way.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The longest head of a request. Browsers send some 700 bytes, scrapers less.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// How long one request may take, reading and writing each.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after an accept that failed, for want of descriptors as a rule.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The path of counters in the Prometheus text format.
pub const METRICS: &str = "/metrics";

/// Writes one page: its text, or in what way the process is unwell, which is told with status 503.
type Page = Box<dyn Fn() -> Result<String, String> + Send>;

/// The pages, by their paths.
#[derive(Default)]
pub struct Pages(Vec<(&'static str, Page)>);

impl Pages {
    /// These and one more, which is written anew for each who asks.
    #[must_use]
    pub fn and(
        mut self,
        path: &'static str,
        page: impl Fn() -> Result<String, String> + Send + 'static,
    ) -> Self {
        self.0.push((path, Box::new(page)));
        self
    }
}

/// A port that is listened on; who asks waits until [`Admin::serve`].
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Listens on `address`, which was asked for by `flag`.
    ///
    /// # Errors
    /// If that address cannot be listened on.
    pub fn listen(address: SocketAddr, flag: &str) -> Result<Self, String> {
        let cannot = |error: io::Error| format!("cannot listen on {address} for {flag}: {error}");
        let listener = TcpListener::bind(address).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Admin { listener, address })
    }

    /// Where it listens; the port is the one that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers whoever asks, from now on and until the process ends.
    ///
    /// # Errors
    /// If there is no thread for that.
    pub fn serve(self, pages: Pages) -> io::Result<()> {
        std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            loop {
                let Ok((stream, _)) = self.listener.accept() else {
                    std::thread::sleep(ACCEPT_AGAIN_AFTER);
                    continue;
                };
                if let Err(error) = answer_one(stream, &pages) {
                    tracing::debug!(%error, "a request for a page was not answered");
                }
            }
        })?;
        Ok(())
    }
}

fn answer_one(mut stream: TcpStream, pages: &Pages) -> io::Result<()> {
    let head = read_head(&mut stream)?;
    let answer = answer_to(&head, pages);
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

fn answer_to(head: &[u8], pages: &Pages) -> String {
    let first_line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let first_line = String::from_utf8_lossy(first_line);
    let mut words = first_line.split(' ');
    let (method, target) = (words.next(), words.next());
    let path = target.map(|target| target.split('?').next().unwrap_or_default());
    let page = pages.0.iter().find(|(known, _)| Some(*known) == path).map(|(_, page)| page);
    let (status, body) = match (method, page) {
        (Some("GET"), Some(page)) => match page() {
            Ok(text) => ("200 OK", text),
            Err(trouble) => ("503 Service Unavailable", trouble),
        },
        (Some("GET"), None) => {
            let known: Vec<&str> = pages.0.iter().map(|(path, _)| *path).collect();
            ("404 Not Found", format!("see {}\n", known.join(", ")))
        }
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

    fn pages() -> Pages {
        Pages::default()
            .and(METRICS, || Ok("catena_requests_total 3\n".to_owned()))
            .and("/healthz", || Err("draining\n".to_owned()))
    }

    #[test]
    fn pages_are_where_they_are_said_to_be() {
        for (request, status, said) in [
            ("GET /metrics HTTP/1.1", "200 OK", "catena_requests_total 3\n"),
            ("GET /metrics?debug=1 HTTP/1.0", "200 OK", "catena_requests_total 3\n"),
            ("GET /healthz HTTP/1.1", "503 Service Unavailable", "draining\n"),
            ("GET / HTTP/1.1", "404 Not Found", "see /metrics, /healthz\n"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed", "GET is all that is answered\n"),
            ("\u{fffd}", "405 Method Not Allowed", "GET is all that is answered\n"),
        ] {
            let answer = answer_to(format!("{request}\r\nHost: x\r\n\r\n").as_bytes(), &pages());
            assert!(answer.starts_with(&format!("HTTP/1.0 {status}\r\n")), "{request}: {answer}");
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{answer}");
            assert_eq!(body, said);
        }
    }

    #[test]
    fn whoever_connects_is_answered() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let admin = Admin::listen(any, "--metrics").expect("loopback can be listened on");
        let address = admin.address();
        let taken = Admin::listen(address, "--metrics").expect_err("it is taken");
        assert!(taken.contains("--metrics") && taken.contains(&address.to_string()), "{taken}");
        admin.serve(pages()).expect("there is a thread");
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).expect("it listens");
            stream.write_all(b"GET /metrics HTTP/1.0\r\n").expect("it fits");
            stream.write_all(b"\r\n").expect("it fits");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("it is answered, and ends");
            assert!(text.ends_with("\r\n\r\ncatena_requests_total 3\n"), "{text}");
        }
    }
}
