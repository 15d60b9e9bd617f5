//! A connection that sends bytes and takes whole replies, as bytes: what differs by a byte differs.

use std::io::{ErrorKind, Read, Write};

/// What a connection is made of.
pub trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// See the module page.
pub struct Peer {
    wire: Box<dyn Wire>,
    received: Vec<u8>,
}

impl Peer {
    pub fn new(wire: impl Wire + 'static) -> Self {
        Peer { wire: Box::new(wire), received: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).expect("the server takes what is sent");
    }

    /// One reply, as it stands on the wire.
    pub fn reply(&mut self) -> Vec<u8> {
        self.try_reply().expect("the server has not closed the connection")
    }

    /// One reply; `None`: the server has closed the connection.
    pub fn try_reply(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = reply_length(&self.received) {
                let rest = self.received.split_off(length);
                return Some(std::mem::replace(&mut self.received, rest));
            }
            let mut bytes = [0; 64 << 10];
            match self.wire.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply: {error}; so far {:?}", shown(&self.received)),
            }
        }
    }

    /// The reply to a command, which is written as for a shell, without quotes.
    pub fn ask(&mut self, command: &str) -> String {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.send(&encoded(&words));
        shown(&self.reply())
    }

    /// The same; `None`: the server has ended the connection.
    pub fn try_ask(&mut self, command: &str) -> Option<String> {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.try_send(&encoded(&words))?;
        Some(shown(&self.try_reply()?))
    }

    /// Sends; `None`: the server has ended the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> Option<()> {
        self.wire.write_all(bytes).ok()
    }

    /// True once the server has ended the connection; what came before is left out.
    pub fn is_closed(&mut self) -> bool {
        while self.try_reply().is_some() {}
        true
    }
}

/// A command, as clients send it.
pub fn encoded(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Bytes for people: the ends of lines as spaces, what cannot be printed escaped.
pub fn shown(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string().replace("\\r\\n", " ");
    text.trim_end().replace("\\'", "'").replace("\\\"", "\"")
}

/// The length of the reply that `bytes` begin with; `None`: it is not whole.
fn reply_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut left = 1_u64;
    while left > 0 {
        left -= 1;
        let end = at + bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        let kind = bytes[at];
        let line = std::str::from_utf8(&bytes[at + 1..end]).unwrap_or_default();
        at = end + 2;
        let number = || line.parse::<i64>().unwrap_or_else(|_| panic!("no length: {line:?}"));
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'$' | b'=' => {
                if let Ok(length) = usize::try_from(number()) {
                    at += length + 2;
                }
            }
            b'*' | b'~' | b'>' => left += u64::try_from(number()).unwrap_or(0),
            b'%' => left += 2 * u64::try_from(number()).unwrap_or(0),
            other => panic!("no reply begins with {:?}", char::from(other)),
        }
        if at > bytes.len() {
            return None;
        }
    }
    Some(at)
}

#[test]
fn replies_end_where_they_end() {
    for whole in [
        "+OK\r\n",
        "$-1\r\n",
        "$4\r\na\r\nb\r\n",
        "*2\r\n:1\r\n*1\r\n$0\r\n\r\n",
        "%1\r\n+a\r\n~1\r\n#t\r\n",
        "*-1\r\n",
        "=5\r\ntxt:a\r\n",
    ] {
        let more = format!("{whole}+next\r\n");
        assert_eq!(reply_length(more.as_bytes()), Some(whole.len()), "{whole:?}");
        for end in 0..whole.len() {
            assert_eq!(reply_length(&whole.as_bytes()[..end]), None, "{whole:?} to {end}");
        }
    }
}
