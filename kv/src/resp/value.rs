//! Answers as a client reads them.

use std::io::{self, BufRead, Read};

/// One answer of a server.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A short status.
    Simple(String),
    /// An error, its code first.
    Error(String),
    /// A number.
    Integer(i64),
    /// A string of any bytes.
    Bulk(Vec<u8>),
    /// Nothing.
    Null,
    /// Several; a map is its keys and values by turns.
    Array(Vec<Value>),
}

/// The deepest that answers are nested in each other.
const DEPTH_MAX: u32 = 16;

impl Value {
    /// Reads the next answer. Memory grows with what arrives, not with what is announced.
    ///
    /// # Errors
    /// If reading fails, or it is no answer.
    pub fn read(from: &mut impl BufRead) -> io::Result<Value> {
        Value::read_nested(from, DEPTH_MAX)
    }

    /// Its bytes, if it is a string of whatever kind.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bulk(bytes) => Some(bytes),
            Value::Simple(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    fn read_nested(from: &mut impl BufRead, depth: u32) -> io::Result<Value> {
        let line = read_line(from)?;
        let (kind, rest) = line.split_first().ok_or_else(|| wrong("an empty line"))?;
        let text = || String::from_utf8_lossy(rest).into_owned();
        let number = || text().parse::<i64>().map_err(|_| wrong("no number where one belongs"));
        match kind {
            b'+' | b',' | b'(' | b'#' => Ok(Value::Simple(text())),
            b'-' => Ok(Value::Error(text())),
            b':' => Ok(Value::Integer(number()?)),
            b'_' => Ok(Value::Null),
            b'$' | b'=' => match usize::try_from(number()?) {
                Err(_) => Ok(Value::Null),
                Ok(length) => Ok(Value::Bulk(read_bulk(from, length)?)),
            },
            b'*' | b'%' | b'~' | b'>' => {
                let Ok(count) = usize::try_from(number()?) else { return Ok(Value::Null) };
                let deeper = depth.checked_sub(1).ok_or_else(|| wrong("nested too deeply"))?;
                let count = if *kind == b'%' { count.saturating_mul(2) } else { count };
                let values = (0..count).map(|_| Value::read_nested(from, deeper));
                Ok(Value::Array(values.collect::<io::Result<_>>()?))
            }
            _ => Err(wrong("a kind that is none")),
        }
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    const LINE_BYTES_MAX: u64 = 64 * 1_024;
    let mut line = Vec::new();
    from.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(line.to_vec()),
        None if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(wrong("a line without its end")),
    }
}

fn read_bulk(from: &mut impl BufRead, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(length as u64 + 2).read_to_end(&mut bytes)?;
    if bytes.len() < length + 2 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !bytes.ends_with(b"\r\n") {
        return Err(wrong("a string without its end"));
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server's answer is none: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let text = b"*3\r\n$3\r\na\r\n\r\n:-7\r\n%1\r\n+k\r\n_\r\n-ERR no\r\n$-1\r\n";
        let mut rest = &text[..];
        let simple = Value::Simple("k".to_owned());
        let map = Value::Array(vec![simple, Value::Null]);
        let array = Value::Array(vec![Value::Bulk(b"a\r\n".to_vec()), Value::Integer(-7), map]);
        assert_eq!(Value::read(&mut rest).expect("an array"), array);
        assert_eq!(Value::read(&mut rest).expect("an error"), Value::Error("ERR no".to_owned()));
        assert_eq!(Value::read(&mut rest).expect("nothing"), Value::Null);
        let ended = Value::read(&mut rest).expect_err("that was all");
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [&b"x\r\n"[..], b"$5\r\nab\r\n", b"$2\r\nabcd", b":x\r\n", b"+no end", b"\r\n"]
        {
            assert!(Value::read(&mut &text[..]).is_err(), "{text:?}");
        }
        let deep = b"*1\r\n".repeat(100);
        assert!(Value::read(&mut &deep[..]).is_err());
    }
}
