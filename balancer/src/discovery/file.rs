//! Endpoints in a file, read again when it changes.
//!
//! One endpoint a line: `HOST:PORT`, and its weight if that is not 1. `#` begins a comment.
//!
//! ```text
//! 10.0.0.1:7400
//! 10.0.0.2:7400  3   # a larger machine
//! ```
//!
//! Replace the file by renaming another one over it, and no half of it is ever read.

use super::{DiscoveryError, Resolved, Source};
use catena_engine::time::Duration;
use std::net::ToSocketAddrs;
use std::path::PathBuf;

/// How often the file is looked at. A look is a read of a small file.
const INTERVAL: Duration = Duration::from_millis(500);
/// The longest file in bytes that is taken for a list of endpoints: some 20,000 of them.
const BYTES_MAX: usize = 1 << 20;

/// See the module page.
#[derive(Debug)]
pub struct EndpointFile {
    path: PathBuf,
    last: Option<String>,
}

impl EndpointFile {
    /// The endpoints in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        EndpointFile { path: path.into(), last: None }
    }

    fn read(&self) -> Result<String, DiscoveryError> {
        let path = self.path.display().to_string();
        match std::fs::read_to_string(&self.path) {
            Ok(text) if text.len() > BYTES_MAX => Err(DiscoveryError::Malformed {
                place: path,
                reason: format!(
                    "{} bytes; a list of endpoints has {BYTES_MAX} at most",
                    text.len()
                ),
            }),
            Ok(text) => Ok(text),
            Err(error) => Err(DiscoveryError::Read { path, error }),
        }
    }
}

impl Source for EndpointFile {
    fn find(&mut self) -> Result<Vec<Resolved>, DiscoveryError> {
        let mut text = self.read();
        while let (Ok(now), Some(last)) = (&text, &self.last)
            && now == last
        {
            std::thread::sleep(INTERVAL);
            text = self.read();
        }
        if text.is_err() && self.last.is_some() {
            std::thread::sleep(INTERVAL);
        }
        // What cannot be understood is not read again before it changes.
        let text = self.last.insert(text?);
        parse(&self.path.display().to_string(), text)
    }

    fn describe(&self) -> String {
        format!("file {}", self.path.display())
    }
}

fn parse(path: &str, text: &str) -> Result<Vec<Resolved>, DiscoveryError> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(name) = words.next() else { continue };
        let wrong = |reason: String| DiscoveryError::Malformed {
            place: format!("{path}, line {}", index + 1),
            reason,
        };
        let weight =
            match words.next() {
                None => 1,
                Some(word) => word.parse().ok().filter(|weight| *weight > 0).ok_or_else(|| {
                    wrong(format!("weight {word:?} is not a whole number above 0"))
                })?,
            };
        if let Some(word) = words.next() {
            return Err(wrong(format!("{word:?} after the weight: one endpoint a line")));
        }
        let addresses = name
            .to_socket_addrs()
            .map_err(|error| wrong(format!("{name:?} is no HOST:PORT, or unknown: {error}")))?;
        found.extend(addresses.map(|address| Resolved { address, weight }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_endpoints() {
        let text = "# all\n127.0.0.1:1\n\n  127.0.0.2:2   3 # large\n";
        let found = parse("f", text).expect("two endpoints");
        let weights: Vec<(u16, u32)> =
            found.iter().map(|found| (found.address.port(), found.weight)).collect();
        assert_eq!(weights, [(1, 1), (2, 3)]);
    }

    #[test]
    fn what_is_wrong_is_told_by_line() {
        for (text, what) in [
            ("127.0.0.1:1 0", "weight"),
            ("127.0.0.1:1 -1", "weight"),
            ("127.0.0.1:1 x", "weight"),
            ("127.0.0.1:1 1 1", "after the weight"),
            ("127.0.0.1", "HOST:PORT"),
        ] {
            let error = parse("f", &format!("\n{text}\n")).expect_err(text).to_string();
            assert!(error.starts_with("f, line 2: ") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_file_is_read_again_when_it_changes() {
        let path = std::env::temp_dir().join(format!("catena-endpoints-{}", std::process::id()));
        std::fs::write(&path, "127.0.0.1:1").expect("a temporary file");
        let mut source = EndpointFile::new(&path);
        assert_eq!(source.find().expect("one").len(), 1);
        std::fs::write(&path, "127.0.0.1:1\n127.0.0.1:2").expect("a temporary file");
        assert_eq!(source.find().expect("two").len(), 2);
        std::fs::remove_file(&path).expect("it was there");
        assert!(source.find().expect_err("gone").to_string().contains("cannot read"));
    }
}
