//! Pages for whoever looks after a process, over HTTP/1.0: `/metrics`, `/healthz`.
//!
//! One thread, a few visitors at a time, each with so much time and so many bytes: for scrapers and for
//! `curl`, on loopback unless told otherwise, and nothing that could get in the shards' way. Who connects
//! and says nothing makes nobody wait.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The longest head of a request. Browsers send some 700 bytes, scrapers less.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// How long one request may take, reading and writing each.
const PATIENCE: Duration = Duration::from_secs(2);
/// Visitors at a time: far more than look after one process, and few descriptors. One more takes the
/// place of the one that came first.
const VISITORS_MAX: usize = 32;
/// The pause after an accept that failed, for want of descriptors as a rule.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long an address that is taken is tried again, and how often: as the engine does with its own.
const ADDRESS_PATIENCE: Duration = Duration::from_millis(250);
const ADDRESS_AGAIN_AFTER: Duration = Duration::from_millis(2);

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
    /// Listens on `address`, which was asked for by `flag`. One that is taken is tried again for a moment: a
    /// process that was killed holds it until the kernel has taken down what it had.
    ///
    /// # Errors
    /// If that address cannot be listened on.
    pub fn listen(address: SocketAddr, flag: &str) -> Result<Self, String> {
        let cannot =
            |error: io::Error| format!("{flag}: cannot listen on {address}: {}", reason(&error));
        let listener =
            once_free(ADDRESS_PATIENCE, || TcpListener::bind(address)).map_err(cannot)?;
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
        self.serve_patiently(pages, PATIENCE)
    }

    fn serve_patiently(self, pages: Pages, patience: Duration) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            let mut visitors = Vec::new();
            loop {
                wait(&self.listener, &visitors);
                welcome(&self.listener, &mut visitors, patience);
                visitors.retain_mut(|visitor| match visitor.go_on(&pages, patience) {
                    Ok(stays) => stays,
                    Err(error) => {
                        tracing::debug!(%error, "a request for a page was not answered");
                        false
                    }
                });
            }
        })?;
        Ok(())
    }
}

/// True if an address can be listened on, now or in a moment.
pub fn is_free(address: SocketAddr) -> bool {
    once_free(ADDRESS_PATIENCE, || TcpListener::bind(address)).is_ok()
}

/// Binds, trying again for a while if the address is taken.
fn once_free<T>(patience: Duration, mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let give_up = Instant::now() + patience;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                std::thread::sleep(ADDRESS_AGAIN_AFTER);
            }
            bound => return bound,
        }
    }
}

/// Why an address cannot be listened on, and what to do.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has that port, or one that was killed has not let go of it \
                                     yet; stop it or choose another port"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

/// Somebody who asks for a page.
#[derive(Debug)]
struct Visitor {
    stream: TcpStream,
    stage: Stage,
    give_up: Instant,
}

#[derive(Debug)]
enum Stage {
    /// The head of the request, as far as it has come.
    Asks(Vec<u8>),
    /// The answer, and how much of it has been sent.
    IsAnswered(String, usize),
}

/// Sleeps until a visitor comes, one can go on, or the patience with one ends.
fn wait(listener: &TcpListener, visitors: &[Visitor]) {
    let mut waiting = vec![PollFd::new(listener, PollFlags::IN)];
    waiting.extend(visitors.iter().map(|visitor| {
        let flags = match visitor.stage {
            Stage::Asks(_) => PollFlags::IN,
            Stage::IsAnswered(..) => PollFlags::OUT,
        };
        PollFd::new(&visitor.stream, flags)
    }));
    let give_up = visitors.iter().map(|visitor| visitor.give_up).min();
    let left = give_up.map(|at| at.saturating_duration_since(Instant::now()));
    let left =
        left.map(|left| Timespec::try_from(left).expect("it is no longer than the patience"));
    // A signal ends the wait early; then everybody is looked at once more, which harms nobody.
    let _ready = poll(&mut waiting, left.as_ref());
}

/// Lets in whoever waits at the door.
fn welcome(listener: &TcpListener, visitors: &mut Vec<Visitor>, patience: Duration) {
    loop {
        let accepted = listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match accepted {
            Ok(stream) => {
                if visitors.len() == VISITORS_MAX {
                    visitors.remove(0);
                }
                let (stage, give_up) = (Stage::Asks(Vec::new()), Instant::now() + patience);
                visitors.push(Visitor { stream, stage, give_up });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => return std::thread::sleep(ACCEPT_AGAIN_AFTER),
        }
    }
}

impl Visitor {
    /// Reads or writes as much as is possible at once. False if the answer has been sent.
    fn go_on(&mut self, pages: &Pages, patience: Duration) -> io::Result<bool> {
        let went_on = match &mut self.stage {
            Stage::Asks(head) => match read_head(&mut self.stream, head) {
                Ok(()) => {
                    self.stage = Stage::IsAnswered(answer_to(head, pages), 0);
                    self.give_up = Instant::now() + patience;
                    return self.go_on(pages, patience);
                }
                Err(error) => Err(error),
            },
            Stage::IsAnswered(answer, sent) => send_rest(&mut self.stream, answer.as_bytes(), sent),
        };
        match went_on {
            Ok(()) => Ok(false),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Err(_) if self.give_up <= Instant::now() => Err(io::ErrorKind::TimedOut.into()),
            Err(_) => Ok(true),
        }
    }
}

/// Everything up to the empty line, as far as it is read at all.
fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0; 1_024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other("the head is too long"));
        }
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&bytes[..count]),
        }
    }
    Ok(())
}

fn send_rest(stream: &mut TcpStream, answer: &[u8], sent: &mut usize) -> io::Result<()> {
    while *sent < answer.len() {
        match stream.write(&answer[*sent..])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => *sent += count,
        }
    }
    Ok(())
}

fn answer_to(head: &[u8], pages: &Pages) -> String {
    let first_line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let first_line = String::from_utf8_lossy(first_line);
    let mut words = first_line.split(' ');
    let (method, target) = (words.next(), words.next());
    let path = target.map(|target| target.split('?').next().unwrap_or_default());
    let page = pages.0.iter().find(|(known, _)| Some(*known) == path).map(|(_, page)| page);
    let is_head = method == Some("HEAD");
    let method = if is_head { Some("GET") } else { method };
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
    let body = if is_head { "" } else { &body };
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
            ("HEAD /metrics HTTP/1.1", "200 OK", ""),
            ("GET / HTTP/1.1", "404 Not Found", "see /metrics, /healthz\n"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed", "GET is all that is answered\n"),
            ("\u{fffd}", "405 Method Not Allowed", "GET is all that is answered\n"),
        ] {
            let answer = answer_to(format!("{request}\r\nHost: x\r\n\r\n").as_bytes(), &pages());
            assert!(answer.starts_with(&format!("HTTP/1.0 {status}\r\n")), "{request}: {answer}");
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
            let is_head = request.starts_with("HEAD");
            let length = if is_head { "catena_requests_total 3\n".len() } else { body.len() };
            assert!(head.contains(&format!("Content-Length: {length}\r\n")), "{answer}");
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
        assert!(taken.contains("choose another port"), "{taken}");
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

    #[test]
    fn an_address_is_tried_again_while_it_is_taken_and_no_other_failure_is() {
        let fails_once_with = |kind: io::ErrorKind| {
            let mut tries = 0;
            let outcome = once_free(LONG, || {
                tries += 1;
                if tries == 1 { Err(kind.into()) } else { Ok(()) }
            });
            (outcome.is_ok(), tries)
        };
        assert_eq!(fails_once_with(io::ErrorKind::AddrInUse), (true, 2));
        assert_eq!(fails_once_with(io::ErrorKind::PermissionDenied), (false, 1));
        let taken = || Err::<(), _>(io::ErrorKind::AddrInUse.into());
        assert!(once_free(Duration::ZERO, taken).is_err(), "patience ends");
    }

    /// A page that is longer than what a socket holds for who does not read.
    fn long_page() -> Pages {
        pages().and("/long", || Ok("long ".repeat(8 << 20)))
    }

    fn listening(patience: Duration) -> SocketAddr {
        let any = "127.0.0.1:0".parse().expect("an address");
        let admin = Admin::listen(any, "--metrics").expect("loopback can be listened on");
        let address = admin.address();
        admin.serve_patiently(long_page(), patience).expect("there is a thread");
        address
    }

    fn visit(address: SocketAddr, says: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("it is not 0");
        stream.write_all(says.as_bytes()).expect("it fits");
        stream
    }

    fn hears(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it is answered, and ends");
        text
    }

    /// Far more than anything here takes: nothing is waited for that long unless it is broken.
    const LONG: Duration = Duration::from_secs(60);
    const ASK: &str = "GET /metrics HTTP/1.0\r\n\r\n";

    #[test]
    fn who_says_nothing_or_reads_nothing_makes_nobody_wait() {
        let address = listening(10 * LONG);
        let mut slow = visit(address, "GET /metrics");
        let _deaf: Vec<TcpStream> =
            (0..3).map(|_| visit(address, "GET /long HTTP/1.0\r\n\r\n")).collect();
        let _mute: Vec<TcpStream> = (0..5).map(|_| visit(address, "")).collect();
        for _ in 0..3 {
            assert!(hears(visit(address, ASK)).ends_with("catena_requests_total 3\n"));
        }
        slow.write_all(b" HTTP/1.0\r\n\r\n").expect("it fits");
        assert!(hears(slow).ends_with("catena_requests_total 3\n"));
    }

    #[test]
    fn a_long_page_arrives_whole() {
        let text = hears(visit(listening(LONG), "GET /long HTTP/1.0\r\n\r\n"));
        let (_, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert_eq!(body.len(), 5 * (8 << 20));
    }

    #[test]
    fn who_is_one_too_many_takes_the_place_of_the_first() {
        let address = listening(10 * LONG);
        let mut mute: Vec<TcpStream> = (0..VISITORS_MAX).map(|_| visit(address, "")).collect();
        assert!(hears(visit(address, ASK)).ends_with("catena_requests_total 3\n"));
        assert_eq!(hears(mute.remove(0)), "", "it is let go, long before the patience ends");
        let mut last = mute.pop().expect("there are more");
        last.write_all(ASK.as_bytes()).expect("it fits");
        assert!(hears(last).ends_with("catena_requests_total 3\n"), "others may stay");
    }

    #[test]
    fn patience_ends() {
        let address = listening(Duration::from_millis(20));
        assert_eq!(hears(visit(address, "")), "");
    }
}
