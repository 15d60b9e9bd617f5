//! How much one command may be.

/// Arguments a command may have before the peer has authenticated. Source: Redis, `AUTH` and `HELLO` fit.
pub const UNAUTHENTICATED_ARGS_MAX: u32 = 10;

/// Bytes an argument may have before the peer has authenticated. Source: Redis, a password fits.
pub const UNAUTHENTICATED_BULK_BYTES_MAX: u32 = 16 << 10;

/// What a parser takes from its peer; whatever goes beyond is an error as soon as it is announced.
///
/// None of it is reserved ahead: it bounds what a peer can make us keep by sending it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Arguments of a command, its name among them.
    pub args_max: u32,
    /// Bytes of one argument.
    pub bulk_bytes_max: u32,
    /// Bytes of a whole command as it stands on the wire. Below 4 GiB, for offsets are 32 bits wide.
    pub command_bytes_max: u32,
    /// Bytes of an inline command, or of the line of a length, without the line's end.
    pub line_bytes_max: u32,
    /// Whether the peer must authenticate first: until then [`UNAUTHENTICATED_ARGS_MAX`] and
    /// [`UNAUTHENTICATED_BULK_BYTES_MAX`] hold besides.
    pub unauthenticated: bool,
}

impl Default for Limits {
    /// A million arguments (the largest Redis took up to 6.2), 512 MiB an argument
    /// (`proto-max-bulk-len`), 1 GiB a command (`client-query-buffer-limit`), 64 KiB a line
    /// (`PROTO_INLINE_MAX_SIZE`), authenticated.
    fn default() -> Self {
        Self {
            args_max: 1 << 20,
            bulk_bytes_max: 512 << 20,
            command_bytes_max: 1 << 30,
            line_bytes_max: 64 << 10,
            unauthenticated: false,
        }
    }
}

impl Limits {
    /// Arguments that a command may have now.
    #[inline]
    pub(super) fn args_allowed(&self) -> u32 {
        match self.unauthenticated {
            true => self.args_max.min(UNAUTHENTICATED_ARGS_MAX),
            false => self.args_max,
        }
    }

    /// Bytes that an argument may have now.
    #[inline]
    pub(super) fn bulk_bytes_allowed(&self) -> u32 {
        match self.unauthenticated {
            true => self.bulk_bytes_max.min(UNAUTHENTICATED_BULK_BYTES_MAX),
            false => self.bulk_bytes_max,
        }
    }
}
