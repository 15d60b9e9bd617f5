//! Endpoints in a file, read again when it changes.
//!
//! One endpoint a line: `HOST:PORT`, and its weight if that is not 1. `#` begins a comment.
//!
//! ```text
//! 10.0.0.1:7400
//! 10.0.0.2:7400  3   # a larger machine
//! [fd00::3]:7400
//! ```
//!
//! Replace the file by renaming another one over it, and no half of it is ever read. A file that is
//! edited in place is believed when two looks in a row find the same in it.

use super::{Closing, DiscoveryError, LOOK_INTERVAL, Resolved, Source};
use crate::config::WEIGHT_MAX;
use catena_engine::time::Duration;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// How often the file is looked at. A look is a read of a small file.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a change has to stay as it is to be believed.
const SETTLED_AFTER: Duration = Duration::from_millis(50);
/// The longest file in bytes that is taken for a list of endpoints: some 20,000 of them.
const BYTES_MAX: u64 = 1 << 20;

/// See the module page.
#[derive(Debug)]
pub struct EndpointFile {
    path: PathBuf,
    /// What was in it, or why that could not be told, when it was looked at last.
    last: Option<Result<String, String>>,
}

impl EndpointFile {
    /// The endpoints in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        EndpointFile { path: path.into(), last: None }
    }

    fn read(&self) -> Result<String, DiscoveryError> {
        let path = || self.path.display().to_string();
        let fail = |error| DiscoveryError::Read { path: path(), error };
        let mut text = String::new();
        // A pipe would be waited for, a device may never end.
        let is_file = std::fs::metadata(&self.path).map_err(fail)?.is_file();
        if !is_file {
            return Err(fail(io::Error::other("it is no regular file")));
        }
        let file = File::open(&self.path).map_err(fail)?;
        file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
        if text.len() as u64 > BYTES_MAX {
            let reason =
                format!("longer than the {BYTES_MAX} bytes that a list of endpoints may have");
            return Err(DiscoveryError::Malformed { place: path(), reason });
        }
        Ok(text)
    }

    fn look(&self) -> Result<String, String> {
        self.read().map_err(|error| error.to_string())
    }

    /// True if there are names in it, whose addresses may change while the file does not.
    fn has_names(&self) -> bool {
        let Some(Ok(text)) = &self.last else { return false };
        text.lines().filter_map(endpoint_of).any(|name| name.parse::<SocketAddr>().is_err())
    }
}

impl Source for EndpointFile {
    fn find(&mut self) -> Result<Vec<Resolved>, DiscoveryError> {
        let text = self.read();
        self.last = Some(match &text {
            Ok(text) => Ok(text.clone()),
            Err(error) => Err(error.to_string()),
        });
        parse(&self.path.display().to_string(), &text?)
    }

    fn wait(&mut self, closing: &Closing) {
        let mut waited = Duration::ZERO;
        while !closing.sleep(INTERVAL) {
            waited += INTERVAL;
            if waited >= LOOK_INTERVAL && self.has_names() {
                return;
            }
            let mut found = self.look();
            if self.last.as_ref() == Some(&found) {
                continue;
            }
            while !closing.sleep(SETTLED_AFTER) {
                let again = self.look();
                if again == found {
                    return;
                }
                found = again;
            }
        }
    }

    fn describe(&self) -> String {
        format!("file {}", self.path.display())
    }
}

/// A line's endpoint as it is written; `None` if there is none in it.
fn endpoint_of(line: &str) -> Option<&str> {
    line.split('#').next()?.split_whitespace().next()
}

fn parse(path: &str, text: &str) -> Result<Vec<Resolved>, DiscoveryError> {
    let mut found = Vec::new();
    let mut lines = BTreeMap::new();
    for (line, number) in text.lines().zip(1..) {
        let Some(name) = endpoint_of(line) else { continue };
        let wrong = |reason| {
            Err(DiscoveryError::Malformed { place: format!("{path}, line {number}"), reason })
        };
        if let Some(first) = lines.insert(name, number) {
            return wrong(format!("{name} is on line {first} already"));
        }
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace().skip(1);
        let weight = match words.next() {
            None => 1,
            Some(word) => match word.parse().ok().filter(|it| (1..=WEIGHT_MAX).contains(it)) {
                Some(weight) => weight,
                None => {
                    let bounds = format!("a whole number between 1 and {WEIGHT_MAX}");
                    return wrong(format!("weight is {word:?}; it must be {bounds}"));
                }
            },
        };
        if let Some(word) = words.next() {
            return wrong(format!("{word:?} after the weight: one endpoint a line"));
        }
        match name.to_socket_addrs() {
            Ok(addresses) => found.extend(addresses.map(|address| Resolved { address, weight })),
            Err(error) => {
                return wrong(format!("{name:?} is no HOST:PORT, or unknown: {error}"));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_endpoints() {
        let text = "# all\n127.0.0.1:1\n\n  127.0.0.2:2   3 # large\r\n[::1]:3 10000\n";
        let found = parse("f", text).expect("three endpoints");
        let weights: Vec<(String, u32)> =
            found.iter().map(|found| (found.address.to_string(), found.weight)).collect();
        let expected = [("127.0.0.1:1", 1), ("127.0.0.2:2", 3), ("[::1]:3", 10_000)];
        assert_eq!(weights, expected.map(|(address, weight)| (address.to_owned(), weight)));
    }

    #[test]
    fn what_is_wrong_is_told_by_line() {
        for (text, what) in [
            ("127.0.0.1:1 0", "weight is \"0\"; it must be a whole number between 1 and 10000"),
            ("127.0.0.1:1 10001", "weight"),
            ("127.0.0.1:1 -1", "weight"),
            ("127.0.0.1:1 x", "weight"),
            ("127.0.0.1:1 1 1", "after the weight"),
            ("127.0.0.1", "HOST:PORT"),
            ("127.0.0.1:65536", "HOST:PORT"),
            ("::1:1 ::", "weight"),
            ("host.invalid:1", "host.invalid"),
            ("127.0.0.9:9 2", "127.0.0.9:9 is on line 1 already"),
        ] {
            let error = parse("f", &format!("127.0.0.9:9\n{text}\n")).expect_err(text).to_string();
            assert!(error.starts_with("f, line 2: ") && error.contains(what), "{error}");
        }
    }
}
