//! Unread bytes → one command, in place and resumable.
//!
//! The caller keeps the unread bytes of a connection contiguous and hands them over from the beginning of a
//! command. If the command is not whole, it comes again with the same bytes and more behind them; the parser
//! keeps how far it was, as offsets from the command's beginning, and looks at no byte twice: the bytes may
//! have moved meanwhile. What it keeps grows with what has arrived, never with what is announced.
//!
//! Accepted is what Redis 7.0 accepts, but for one thing: that a line ends in CR LF is checked everywhere,
//! behind an argument too, where Redis skips any two bytes. A peer that counts wrong is told so at the first
//! argument and does not have its data taken for commands.

use super::error::ProtocolError;
use super::inline;
use super::limits::Limits;

/// Arguments and inline bytes that an idle parser keeps room for: enough for what most commands are, and
/// small beside the rest of a connection. More is given back when the next command begins.
const ARGS_KEPT: usize = 256;
const INLINE_BYTES_KEPT: usize = 4096;

/// CR LF.
const LINE_END_BYTES: usize = 2;

/// The parser of one connection.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    /// The arguments found so far; at the beginning of a command, still those of the last one.
    spans: Vec<Span>,
    /// The words of the last inline command, without their quotes.
    inline: Vec<u8>,
    /// Where the next line or argument begins, from the command's beginning. 0: nothing is read yet.
    position: usize,
    /// Bytes from `position` on that are known to hold no line end.
    searched: usize,
    /// Arguments that are still to come.
    args_left: u32,
    /// The length of the argument at `position`, once it is known.
    bulk_bytes: Option<usize>,
    #[cfg(test)]
    looked_at: usize,
}

/// What the unread bytes begin with.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// A command of at least one argument.
    Command {
        /// Its name and arguments.
        args: Args<'a>,
        /// The bytes it took: the next command begins behind them.
        read: usize,
    },
    /// A blank line, or a command of no argument: nothing to do and nothing to answer.
    Empty {
        /// The bytes it took.
        read: usize,
    },
    /// The command is not whole. Call again with the same bytes and more behind them.
    Incomplete {
        /// So many more bytes are needed at least. What a peer says, so read into it, but reserve no
        /// memory for it.
        missing_at_least: usize,
    },
}

/// The arguments of one command, its name first. The bytes lie where they were received.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    spans: &'a [Span],
    bytes: &'a [u8],
}

/// Where an argument lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    bytes: u32,
}

impl Parser {
    /// A parser at the beginning of a command.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            spans: Vec::new(),
            inline: Vec::new(),
            position: 0,
            searched: 0,
            args_left: 0,
            bulk_bytes: None,
            #[cfg(test)]
            looked_at: 0,
        }
    }

    /// True if the next bytes begin with a command, false if they go on with one.
    pub fn is_between(&self) -> bool {
        self.position == 0 && self.searched == 0
    }

    /// Forgets what it has found: the next bytes begin with a command.
    pub fn reset(&mut self) {
        self.position = 0;
        self.searched = 0;
        self.args_left = 0;
        self.bulk_bytes = None;
    }

    /// Changes the limits; they hold for whatever is announced from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The limits that hold.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Heap memory held, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.inline.capacity()
    }

    /// Reads on where the last call ended. `unread` begins where the command begins: behind what the last
    /// [`Parsed::Command`] or [`Parsed::Empty`] took, or where it began when this returned
    /// [`Parsed::Incomplete`].
    ///
    /// # Errors
    /// What is no command or exceeds a limit, as soon as that can be seen. The connection is over then.
    #[inline]
    pub fn next<'a>(&'a mut self, unread: &'a [u8]) -> Result<Parsed<'a>, ProtocolError> {
        if self.position == 0 {
            match unread.first() {
                None => return Ok(Parsed::Incomplete { missing_at_least: 1 }),
                Some(b'*') => {}
                Some(_) => return self.inline(unread),
            }
            if let Some(ended) = self.begin(unread)? {
                return Ok(ended);
            }
        }
        while self.args_left > 0 {
            if let Some(missing_at_least) = self.argument(unread)? {
                return Ok(Parsed::Incomplete { missing_at_least });
            }
        }
        let read = std::mem::take(&mut self.position);
        Ok(Parsed::Command { args: Args { spans: &self.spans, bytes: unread }, read })
    }

    /// Reads the number of arguments. Returns what ends this call, if something does.
    #[inline]
    fn begin<'a>(&mut self, unread: &[u8]) -> Result<Option<Parsed<'a>>, ProtocolError> {
        self.spans.clear();
        let (count, bytes) = match unread {
            [_, digit @ b'1'..=b'9', b'\r', b'\n', ..] => (i64::from(digit - b'0'), 4),
            _ => match self.length(unread, Announced::Args)? {
                Some(found) => found,
                None => return Ok(Some(Parsed::Incomplete { missing_at_least: 1 })),
            },
        };
        self.look_at(bytes - self.searched);
        self.searched = 0;
        if count > i64::from(self.limits.args_allowed()) {
            // Redis' order: what is no number of arguments at all comes first.
            let known = count <= i64::from(i32::MAX) && self.limits.unauthenticated;
            return Err(match known {
                true => ProtocolError::UnauthenticatedMultibulkLength,
                false => ProtocolError::InvalidMultibulkLength,
            });
        }
        let Ok(count @ 1..) = u32::try_from(count) else {
            return Ok(Some(Parsed::Empty { read: bytes }));
        };
        if self.spans.capacity() > ARGS_KEPT {
            self.spans.shrink_to(ARGS_KEPT);
        }
        self.args_left = count;
        self.position = bytes;
        Ok(None)
    }

    /// Reads one argument. Returns how many bytes are missing at least, if some are.
    #[inline]
    fn argument(&mut self, unread: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let bytes = match self.bulk_bytes {
            Some(bytes) => bytes,
            None => match self.bulk_header(unread)? {
                Some(bytes) => bytes,
                None => return Ok(Some(1)),
            },
        };
        let end = self.position + bytes;
        match unread.get(end..end + LINE_END_BYTES) {
            Some(b"\r\n") => {}
            Some(_) => return Err(ProtocolError::InvalidBulkLength),
            None => {
                self.bulk_bytes = Some(bytes);
                return Ok(Some(end + LINE_END_BYTES - unread.len()));
            }
        }
        self.look_at(LINE_END_BYTES);
        self.spans.push(Span::new(self.position, bytes));
        self.position = end + LINE_END_BYTES;
        self.bulk_bytes = None;
        self.args_left -= 1;
        Ok(None)
    }

    /// Reads the length of an argument and goes behind its line; `None`: the line is not whole.
    #[inline]
    fn bulk_header(&mut self, unread: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let line = &unread[self.position..];
        let (length, line_bytes) = match line {
            [b'$', digit @ b'0'..=b'9', b'\r', b'\n', ..] => (i64::from(digit - b'0'), 4),
            [b'$', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => {
                (i64::from(tens - b'0') * 10 + i64::from(ones - b'0'), 5)
            }
            [b'$', ..] => match self.length(line, Announced::Bulk)? {
                Some(found) => found,
                None => return Ok(None),
            },
            [got, ..] => return Err(ProtocolError::ExpectedBulk { got: *got }),
            [] => return Ok(None),
        };
        if !(0..=i64::from(self.limits.bulk_bytes_allowed())).contains(&length) {
            let known = (0..=i64::from(self.limits.bulk_bytes_max)).contains(&length);
            return Err(match known {
                true => ProtocolError::UnauthenticatedBulkLength,
                false => ProtocolError::InvalidBulkLength,
            });
        }
        self.look_at(line_bytes - self.searched);
        self.searched = 0;
        let bytes = length as usize;
        let position = self.position + line_bytes;
        if position + bytes + LINE_END_BYTES > self.limits.command_bytes_max as usize {
            return Err(ProtocolError::TooBigCommand);
        }
        self.position = position;
        Ok(Some(bytes))
    }

    /// Reads a line of one type byte and a number: the number, and the bytes of the line with its end;
    /// `None`: the line is not whole. Away from the usual path, which has one or two digits.
    #[cold]
    #[inline(never)]
    fn length(
        &mut self,
        line: &[u8],
        announced: Announced,
    ) -> Result<Option<(i64, usize)>, ProtocolError> {
        let Some(end) = self.line_end(line, announced.too_big())? else { return Ok(None) };
        match line[1..end].strip_suffix(b"\r").and_then(number) {
            Some(number) => Ok(Some((number, end + 1))),
            None => Err(announced.invalid()),
        }
    }

    /// Reads an inline command.
    #[cold]
    #[inline(never)]
    fn inline<'a>(&'a mut self, unread: &'a [u8]) -> Result<Parsed<'a>, ProtocolError> {
        let Some(end) = self.line_end(unread, ProtocolError::TooBigInline)? else {
            return Ok(Parsed::Incomplete { missing_at_least: 1 });
        };
        self.searched = 0;
        self.spans.clear();
        self.spans.shrink_to(ARGS_KEPT);
        self.inline.clear();
        self.inline.shrink_to(INLINE_BYTES_KEPT);
        let line = &unread[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        inline::split(line, self.limits.args_max, &mut self.inline, &mut self.spans)?;
        let read = end + 1;
        if self.spans.is_empty() {
            return Ok(Parsed::Empty { read });
        }
        Ok(Parsed::Command { args: Args { spans: &self.spans, bytes: &self.inline }, read })
    }

    /// Finds the LF of a line, from where the search was left last time. If a line of the longest allowed
    /// length has none, that is `too_big`, however the bytes came.
    fn line_end(
        &mut self,
        line: &[u8],
        too_big: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let allowed = &line[..line.len().min(self.limits.line_bytes_max as usize + 1)];
        let from = self.searched.min(allowed.len());
        let found = allowed[from..].iter().position(|byte| *byte == b'\n').map(|at| from + at);
        self.searched = found.map_or(allowed.len(), |at| at + 1);
        self.look_at(self.searched - from);
        if found.is_none() && line.len() > self.limits.line_bytes_max as usize {
            return Err(too_big);
        }
        Ok(found)
    }

    /// Counts bytes, for the tests that none is read twice.
    #[inline]
    fn look_at(&mut self, _bytes: usize) {
        #[cfg(test)]
        {
            self.looked_at += _bytes;
        }
    }
}

impl Default for Parser {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl<'a> Args<'a> {
    /// How many there are, the name among them: never none.
    #[must_use]
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a command has a name")]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// The argument of that number, the name being 0.
    #[must_use]
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| span.of(self.bytes))
    }

    /// The argument of that number, for callers who have checked [`Args::len`].
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[inline]
    pub fn at(&self, index: usize) -> &'a [u8] {
        self.spans[index].of(self.bytes)
    }

    /// The bytes that they take on the wire, with what stands between them.
    #[must_use]
    #[inline]
    pub fn wire_bytes(&self) -> usize {
        self.spans.last().map_or(0, |span| span.start as usize + span.bytes as usize)
    }

    /// The name of the command.
    #[must_use]
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        self.spans[0].of(self.bytes)
    }

    /// All of them in order.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + use<'a> {
        let Self { spans, bytes } = *self;
        spans.iter().map(move |span| span.of(bytes))
    }
}

impl std::ops::Index<usize> for Args<'_> {
    type Output = [u8];

    /// # Panics
    /// If there is no argument of that number: for callers who have checked [`Args::len`].
    #[inline]
    fn index(&self, index: usize) -> &[u8] {
        self.spans[index].of(self.bytes)
    }
}

impl std::fmt::Debug for Args<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_list()
            .entries(self.iter().map(|arg| arg.escape_ascii().to_string()))
            .finish()
    }
}

impl Span {
    /// Both fit: [`Limits::command_bytes_max`] and [`Limits::line_bytes_max`] are 32 bits wide.
    #[inline]
    pub(super) fn new(start: usize, bytes: usize) -> Self {
        Self { start: start as u32, bytes: bytes as u32 }
    }

    #[inline]
    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..][..self.bytes as usize]
    }
}

/// What a length is of, for its errors.
#[derive(Clone, Copy)]
enum Announced {
    Args,
    Bulk,
}

impl Announced {
    fn invalid(self) -> ProtocolError {
        match self {
            Self::Args => ProtocolError::InvalidMultibulkLength,
            Self::Bulk => ProtocolError::InvalidBulkLength,
        }
    }

    fn too_big(self) -> ProtocolError {
        match self {
            Self::Args => ProtocolError::TooBigMultibulkCount,
            Self::Bulk => ProtocolError::TooBigBulkCount,
        }
    }
}

/// A number as Redis takes it: no plus sign, no leading zero, no minus zero, within 64 bits.
fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        b"0" if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Downwards, for the least number has no positive counterpart.
    let below_zero = digits.iter().try_fold(0_i64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_sub(digit)
    })?;
    if negative { Some(below_zero) } else { below_zero.checked_neg() }
}

#[cfg(test)]
mod tests;
