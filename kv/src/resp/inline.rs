//! A command typed by hand: one line, words between spaces, quotes as Redis has them.
//!
//! `"…"` knows `\n \r \t \b \a`, `\xHH`, and `\` before any other byte for that byte; `'…'` knows `\'`
//! only. A quote may begin inside a word and goes on with it; behind its end a space or the line's end
//! must stand.

use super::error::ProtocolError;
use super::parse::Span;

/// Splits `line`, which has no line end, into words. Their bytes, unquoted, are appended to `text`, and
/// where each lies there to `spans`.
///
/// # Errors
/// [`ProtocolError::UnbalancedQuotes`]; [`ProtocolError::TooBigInline`] from more than `words_max` words.
pub(super) fn split(
    line: &[u8],
    words_max: u32,
    text: &mut Vec<u8>,
    spans: &mut Vec<Span>,
) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        rest = &rest[rest.iter().take_while(|byte| is_space(**byte)).count()..];
        if rest.is_empty() {
            return Ok(());
        }
        if spans.len() >= words_max as usize {
            return Err(ProtocolError::TooBigInline);
        }
        let start = text.len();
        rest = word(rest, text)?;
        spans.push(Span::new(start, text.len() - start));
    }
}

/// Takes one word off `rest` and returns what is behind it.
fn word<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            // Vertical tab and form feed separate words but do not end one: so does Redis.
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Ok(rest),
            [b'"', quoted @ ..] => return after_quote(double_quoted(quoted, text)?),
            [b'\'', quoted @ ..] => return after_quote(single_quoted(quoted, text)?),
            [byte, behind @ ..] => {
                text.push(*byte);
                rest = behind;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, behind) = match rest {
            [b'"', behind @ ..] => return Ok(behind),
            [b'\\', b'x', high, low, behind @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), behind)
            }
            [b'\\', escaped, behind @ ..] => (unescaped(*escaped), behind),
            [byte, behind @ ..] => (*byte, behind),
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
        text.push(byte);
        rest = behind;
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, behind) = match rest {
            [b'\'', behind @ ..] => return Ok(behind),
            [b'\\', b'\'', behind @ ..] => (b'\'', behind),
            [byte, behind @ ..] => (*byte, behind),
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
        text.push(byte);
        rest = behind;
    }
}

fn after_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if !is_space(*byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

/// C's `isspace`: unlike Rust's `is_ascii_whitespace`, with the vertical tab.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
