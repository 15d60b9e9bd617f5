//! Answers → bytes, in RESP2 and RESP3.
//!
//! The two differ in how they say nothing, maps, sets, doubles, booleans and pushes: a command states what it
//! answers, and the protocol that the peer chose with `HELLO` decides how that looks.

/// The version of the protocol that a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What every connection begins with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// Appends answers to the output of one connection.
#[derive(Debug)]
pub struct Reply<'o> {
    out: &'o mut Vec<u8>,
    protocol: Protocol,
}

/// Room for a type byte, a number of 64 bits with its sign, CR LF.
const NUMBER_LINE_BYTES_MAX: usize = 1 + 20 + 2;

impl<'o> Reply<'o> {
    /// Appends to `out` what `protocol` says.
    #[inline]
    pub fn new(out: &'o mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// The version that is spoken.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A short status, one line; CR and LF in it become spaces.
    #[inline]
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error, its code first: `ERR …`, `WRONGTYPE …`. CR and LF in it become spaces, for the text may
    /// repeat what the peer sent.
    #[inline]
    pub fn error(&mut self, text: impl AsRef<[u8]>) {
        self.line(b'-', text.as_ref());
    }

    /// A signed number.
    #[inline]
    pub fn integer(&mut self, number: i64) {
        match number {
            0 => self.out.extend_from_slice(b":0\r\n"),
            1 => self.out.extend_from_slice(b":1\r\n"),
            _ if number < 0 => self.number_line(b':', true, number.unsigned_abs()),
            _ => self.number_line(b':', false, number.unsigned_abs()),
        }
    }

    /// A string of any bytes.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(NUMBER_LINE_BYTES_MAX + bytes.len() + 2);
        self.length(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A string, or no value.
    #[inline]
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// No value, where there could have been a string.
    #[inline]
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// No value, where there could have been an array.
    #[inline]
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// So many answers follow, in order.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.length(b'*', len);
    }

    /// So many pairs of key and value follow: two answers each.
    pub fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.length(b'*', 2 * len),
            Protocol::Resp3 => self.length(b'%', len),
        }
    }

    /// So many answers follow, whose order says nothing.
    pub fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.length(b'*', len),
            Protocol::Resp3 => self.length(b'~', len),
        }
    }

    /// So many answers follow, which are no answer to a command.
    pub fn push(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.length(b'*', len),
            Protocol::Resp3 => self.length(b'>', len),
        }
    }

    /// Yes or no; to RESP2 1 or 0.
    pub fn boolean(&mut self, yes: bool) {
        match self.protocol {
            Protocol::Resp2 => self.integer(i64::from(yes)),
            Protocol::Resp3 => self.out.extend_from_slice(if yes { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    /// A number with a fraction; to RESP2 a string of it. The fewest digits that are read back as the same
    /// number, with an exponent where that is shorter.
    pub fn double(&mut self, number: f64) {
        let (text, len) = Double::of(number);
        match self.protocol {
            Protocol::Resp2 => self.bulk(&text[..len]),
            Protocol::Resp3 => self.line(b',', &text[..len]),
        }
    }

    /// Text for people to read as it is; to RESP2 a string. `format`: `txt` or `mkd`.
    pub fn verbatim(&mut self, format: &[u8; 3], text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                self.length(b'=', format.len() + 1 + text.len());
                self.out.extend_from_slice(format);
                self.out.push(b':');
                self.out.extend_from_slice(text);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Answers that were written before, of the same protocol, whole.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A type byte, text, CR LF.
    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.reserve(text.len() + 3);
        self.out.push(kind);
        let start = self.out.len();
        self.out.extend_from_slice(text);
        for byte in &mut self.out[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// A type byte, a length, CR LF.
    #[inline]
    fn length(&mut self, kind: u8, length: usize) {
        match length {
            0..10 => self.out.extend_from_slice(&[kind, b'0' + length as u8, b'\r', b'\n']),
            10..100 => {
                let (tens, ones) = (b'0' + (length / 10) as u8, b'0' + (length % 10) as u8);
                self.out.extend_from_slice(&[kind, tens, ones, b'\r', b'\n']);
            }
            _ => self.number_line(kind, false, length as u64),
        }
    }

    /// A type byte, a number, CR LF: made from its end in a buffer on the stack, then copied once.
    fn number_line(&mut self, kind: u8, negative: bool, magnitude: u64) {
        let mut line = [b'\n'; NUMBER_LINE_BYTES_MAX];
        let mut start = line.len() - 2;
        line[start] = b'\r';
        let mut rest = magnitude;
        while rest >= 100 {
            start -= 2;
            line[start..start + 2].copy_from_slice(&two_digits(rest % 100));
            rest /= 100;
        }
        if rest >= 10 {
            start -= 2;
            line[start..start + 2].copy_from_slice(&two_digits(rest));
        } else {
            start -= 1;
            line[start] = b'0' + rest as u8;
        }
        if negative {
            start -= 1;
            line[start] = b'-';
        }
        start -= 1;
        line[start] = kind;
        self.out.extend_from_slice(&line[start..]);
    }
}

/// The two decimal digits of a number below 100.
#[inline]
fn two_digits(number: u64) -> [u8; 2] {
    const DIGITS: [[u8; 2]; 100] = {
        let mut digits = [[0; 2]; 100];
        let mut number = 0;
        while number < 100 {
            digits[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
            number += 1;
        }
        digits
    };
    DIGITS[number as usize]
}

/// A double as text.
struct Double {
    text: [u8; DOUBLE_BYTES_MAX],
    len: usize,
}

/// The longest: sign, point, 17 digits, six zeros ahead or behind, or `e-308`.
const DOUBLE_BYTES_MAX: usize = 32;

impl Double {
    /// Digits of the shortest text that is read back as the same number, laid out as Redis does from 7.2 on:
    /// plain with up to seven zeros, with an exponent and its sign (`1e+21`, `1.5e-9`) beyond.
    fn of(number: f64) -> ([u8; DOUBLE_BYTES_MAX], usize) {
        let mut this = Self { text: [0; DOUBLE_BYTES_MAX], len: 0 };
        if number.is_nan() {
            this.add(b"nan");
        } else {
            if number.is_sign_negative() {
                this.add(b"-");
            }
            if number.is_infinite() {
                this.add(b"inf");
            } else {
                this.finite(number.abs());
            }
        }
        (this.text, this.len)
    }

    fn finite(&mut self, number: f64) {
        let mut scientific = Self { text: [0; DOUBLE_BYTES_MAX], len: 0 };
        std::fmt::Write::write_fmt(&mut scientific, format_args!("{number:e}"))
            .expect("17 digits, a point and an exponent of three digits fit");
        let written = &scientific.text[..scientific.len];
        let at = written.iter().position(|byte| *byte == b'e').expect("`{:e}` writes an exponent");
        let exponent: i32 = std::str::from_utf8(&written[at + 1..])
            .ok()
            .and_then(|digits| digits.parse().ok())
            .expect("the exponent is a decimal number");
        let mut digits = Self { text: [0; DOUBLE_BYTES_MAX], len: 0 };
        written[..at].iter().filter(|byte| **byte != b'.').for_each(|byte| digits.add(&[*byte]));
        self.lay_out(&digits.text[..digits.len], exponent);
    }

    /// Digits with the point behind the first, times ten to the `exponent`.
    fn lay_out(&mut self, digits: &[u8], exponent: i32) {
        // Places behind the last digit; below zero: digits behind the point.
        let scale = exponent - (digits.len() as i32 - 1);
        if scale >= 0 && exponent.abs() < digits.len() as i32 + 7 {
            self.add(digits);
            (0..scale).for_each(|_| self.add(b"0"));
        } else if scale < 0 && (scale > -7 || exponent.abs() < 4) {
            if exponent >= 0 {
                let (whole, fraction) = digits.split_at(exponent as usize + 1);
                self.add(whole);
                self.add(b".");
                self.add(fraction);
            } else {
                self.add(b"0.");
                (1..-exponent).for_each(|_| self.add(b"0"));
                self.add(digits);
            }
        } else {
            self.add(&digits[..1]);
            if digits.len() > 1 {
                self.add(b".");
                self.add(&digits[1..]);
            }
            std::fmt::Write::write_fmt(self, format_args!("e{exponent:+}"))
                .expect("17 digits, a point and an exponent of three digits fit");
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.text[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl std::fmt::Write for Double {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.add(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(write: impl Fn(&mut Reply<'_>)) -> (String, String) {
        let one = |protocol| {
            let mut out = Vec::new();
            write(&mut Reply::new(&mut out, protocol));
            String::from_utf8(out).expect("tests write text")
        };
        (one(Protocol::Resp2), one(Protocol::Resp3))
    }

    #[track_caller]
    fn check(write: impl Fn(&mut Reply<'_>), resp2: &str, resp3: &str) {
        assert_eq!(both(write), (resp2.to_owned(), resp3.to_owned()));
    }

    #[track_caller]
    fn same(write: impl Fn(&mut Reply<'_>), expected: &str) {
        check(write, expected, expected);
    }

    #[test]
    fn what_both_protocols_say_alike() {
        same(|reply| reply.ok(), "+OK\r\n");
        same(|reply| reply.simple("QUEUED"), "+QUEUED\r\n");
        same(|reply| reply.error("ERR no\r\nsuch\nthing"), "-ERR no  such thing\r\n");
        same(|reply| reply.error(b"ERR bytes"), "-ERR bytes\r\n");
        same(|reply| reply.array(0), "*0\r\n");
        same(|reply| reply.array(1_000_000), "*1000000\r\n");
        same(|reply| reply.bulk(b""), "$0\r\n\r\n");
        same(|reply| reply.bulk(b"a\r\nb"), "$4\r\na\r\nb\r\n");
        same(|reply| reply.raw(b":7\r\n"), ":7\r\n");
    }

    #[test]
    fn what_they_say_differently() {
        check(|reply| reply.null(), "$-1\r\n", "_\r\n");
        check(|reply| reply.null_array(), "*-1\r\n", "_\r\n");
        check(|reply| reply.map(3), "*6\r\n", "%3\r\n");
        check(|reply| reply.set(12), "*12\r\n", "~12\r\n");
        check(|reply| reply.push(2), "*2\r\n", ">2\r\n");
        check(|reply| reply.boolean(true), ":1\r\n", "#t\r\n");
        check(|reply| reply.boolean(false), ":0\r\n", "#f\r\n");
        check(|reply| reply.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n");
        check(|reply| reply.verbatim(b"txt", b"a b"), "$3\r\na b\r\n", "=7\r\ntxt:a b\r\n");
    }

    #[test]
    fn integers_and_lengths_of_every_number_of_digits() {
        let mut numbers = vec![0, 1, -1, i64::MAX, i64::MIN];
        for power in (0..19).map(|digits| 10_i64.pow(digits)) {
            numbers.extend([power - 1, power, power + 1, -power, power * 9, power.wrapping_mul(7)]);
        }
        for number in numbers {
            same(|reply| reply.integer(number), &format!(":{number}\r\n"));
        }
        for len in [9, 10, 99, 100, 101, 999, 1_000, 65_536] {
            let text = "x".repeat(len);
            same(|reply| reply.bulk(text.as_bytes()), &format!("${len}\r\n{text}\r\n"));
        }
    }

    #[test]
    fn doubles_have_the_fewest_digits_that_are_read_back() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (-3.25, "-3.25"),
            (0.1, "0.1"),
            (0.000_001, "0.000001"),
            (0.000_000_1, "1e-7"),
            (1.5e-9, "1.5e-9"),
            (1e7, "10000000"),
            (1e8, "1e+8"),
            (1e21, "1e+21"),
            (123_456_789.0, "123456789"),
            (123.456, "123.456"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            check(
                |reply| reply.double(number),
                &format!("${}\r\n{text}\r\n", text.len()),
                &format!(",{text}\r\n"),
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_double_is_read_back(bits: u64) {
            let number = f64::from_bits(bits);
            let (text, len) = Double::of(number);
            let text = std::str::from_utf8(&text[..len]).expect("text is ASCII");
            let back: f64 = text.parse().expect("a number");
            proptest::prop_assert!(back == number || number.is_nan() && back.is_nan(), "{text}");
        }
    }
}
