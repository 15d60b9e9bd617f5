//! What an operator may choose, and what may be missing.

use crate::limits;
use crate::reactor::descriptors;
use crate::time::Duration;
use std::fmt;
use std::io;

/// Start-time values of one shard's io_uring driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringConfig {
    /// The most sockets at a time. Lowered to what the limit on file descriptors leaves room for;
    /// [`describe`](crate::driver::Driver::describe) says so.
    pub sockets_max: u32,
    /// How many receive buffers there are; a power of two.
    pub receive_buffers: u16,
    /// The size in bytes of each.
    pub receive_buffer_bytes: u32,
    /// Entries of the submission queue; rounded up to a power of two.
    pub submission_entries: u32,
    /// Entries of the completion queue; rounded up to a power of two.
    pub completion_entries: u32,
    /// How long a sleep may go on after the first completion, so that the shard wakes for more of them
    /// at once; up to [`GATHER_MAX`](limits::GATHER_MAX). Zero: it wakes for the first one.
    pub gather: Duration,
    /// Features to do without although the kernel has them. For tests, and to find out which one
    /// a kernel gets wrong.
    pub disable: Features,
}

impl Default for UringConfig {
    fn default() -> Self {
        UringConfig {
            sockets_max: limits::SOCKETS_MAX_DEFAULT,
            receive_buffers: limits::RECEIVE_BUFFERS_DEFAULT,
            receive_buffer_bytes: limits::RECEIVE_BUFFER_BYTES_DEFAULT,
            submission_entries: limits::SUBMISSION_ENTRIES_DEFAULT,
            completion_entries: limits::COMPLETION_ENTRIES_DEFAULT,
            gather: Duration::ZERO,
            disable: Features::NONE,
        }
    }
}

impl UringConfig {
    pub(super) fn validate(&self) -> Result<(), UringError> {
        let buffers_max = limits::RECEIVE_BUFFERS_MAX;
        let bytes_range = limits::RECEIVE_BUFFER_BYTES_MIN..=limits::RECEIVE_BUFFER_BYTES_MAX;
        let complaint = if !(1..=limits::SOCKETS_MAX).contains(&self.sockets_max) {
            format!("sockets_max is {}, not 1 to {}", self.sockets_max, limits::SOCKETS_MAX)
        } else if !self.receive_buffers.is_power_of_two() || self.receive_buffers > buffers_max {
            let count = self.receive_buffers;
            format!("receive_buffers is {count}, not a power of two up to {buffers_max}")
        } else if !bytes_range.contains(&self.receive_buffer_bytes) {
            let bytes = self.receive_buffer_bytes;
            format!("receive_buffer_bytes is {bytes}, not {bytes_range:?}")
        } else if self.submission_entries == 0 || self.completion_entries < self.submission_entries
        {
            let (submissions, completions) = (self.submission_entries, self.completion_entries);
            format!(
                "submission_entries is {submissions} and completion_entries {completions}: there \
                 must be at least one submission, and no fewer completions than submissions"
            )
        } else if self.gather > limits::GATHER_MAX {
            format!("gather is {:?}, longer than {:?}", self.gather, limits::GATHER_MAX)
        } else {
            return Ok(());
        };
        Err(UringError::InvalidConfig { complaint })
    }
}

/// A set of things that a kernel may or may not offer, and that the driver can do without.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u16);

impl Features {
    /// No feature.
    pub const NONE: Features = Features(0);
    /// Every feature.
    pub const ALL: Features = Features((1 << NAMES.len()) - 1);
    /// Submissions are consumed in order (Linux 6.6).
    pub const NO_SQARRAY: Features = Features(1 << 0);
    /// Completions are worked off by the shard itself, when it asks (Linux 6.1).
    pub const DEFER_TASKRUN: Features = Features(1 << 1);
    /// One thread submits (Linux 6.0).
    pub const SINGLE_ISSUER: Features = Features(1 << 2);
    /// No interrupts for completions, a flag in shared memory instead (Linux 5.19).
    pub const TASKRUN_FLAG: Features = Features(1 << 3);
    /// A bad submission does not hold up others (Linux 5.18).
    pub const SUBMIT_ALL: Features = Features(1 << 4);
    /// The ring is entered by a registered index (Linux 5.18).
    pub const RING_DESCRIPTOR: Features = Features(1 << 5);
    /// One submission accepts many connections (Linux 5.19).
    pub const MULTISHOT_ACCEPT: Features = Features(1 << 6);
    /// One submission receives many times (Linux 6.0).
    pub const MULTISHOT_RECEIVE: Features = Features(1 << 7);
    /// A small send is over when it was submitted (Linux 6.1).
    pub const EAGER_SEND: Features = Features(1 << 8);
    /// Shards are woken from ring to ring (Linux 5.18).
    pub const RING_MESSAGE: Features = Features(1 << 9);
    /// A sleep goes on for a moment, for more to come (Linux 6.12).
    pub const MIN_WAIT: Features = Features(1 << 10);

    /// True if all of `other` are in this set.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set and `other`.
    #[must_use]
    pub const fn with(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// This set without `other`.
    #[must_use]
    pub const fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// Each single feature of this set.
    pub fn iter(self) -> impl Iterator<Item = Features> {
        (0..NAMES.len()).map(|bit| Features(1 << bit)).filter(move |one| self.contains(*one))
    }
}

/// The names, lowest bit first.
const NAMES: [&str; 11] = [
    "no-sqarray",
    "defer-taskrun",
    "single-issuer",
    "taskrun-flag",
    "submit-all",
    "ring-descriptor",
    "multishot-accept",
    "multishot-receive",
    "eager-send",
    "ring-message",
    "min-wait",
];

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Features::NONE {
            return f.write_str("none");
        }
        for (index, one) in self.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { " " })?;
            f.write_str(NAMES[one.0.trailing_zeros() as usize])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({self})")
    }
}

/// Why there is no io_uring driver.
#[derive(Debug)]
#[non_exhaustive]
pub enum UringError {
    /// A value of [`UringConfig`] is out of its range.
    InvalidConfig {
        /// Which, and what it may be.
        complaint: String,
    },
    /// The kernel has no io_uring, or this process may not use it (`ENOSYS`, `EPERM`, `EACCES`).
    Refused {
        /// As the kernel says it.
        error: io::Error,
        /// The value of `kernel.io_uring_disabled`, where there is such a setting.
        sysctl: Option<String>,
    },
    /// The kernel has no memory for the ring, or may not give it (`ENOMEM`).
    NoMemory {
        /// What it was for.
        step: &'static str,
        /// As the kernel says it.
        error: io::Error,
    },
    /// The kernel is too old.
    TooOld {
        /// What it lacks.
        missing: &'static str,
    },
    /// Anything else.
    Failed {
        /// What failed.
        step: &'static str,
        /// As the kernel says it.
        error: io::Error,
    },
}

impl UringError {
    /// True where another driver may do: everything but a mistake of the caller's.
    pub fn suggests_another_driver(&self) -> bool {
        !matches!(self, UringError::InvalidConfig { .. })
    }

    pub(super) fn new(step: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EPERM | libc::EACCES) => {
                let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
                UringError::Refused { error, sysctl: sysctl.map(|value| value.trim().to_owned()) }
            }
            Some(libc::ENOMEM) => UringError::NoMemory { step, error },
            _ => UringError::Failed { step, error },
        }
    }
}

impl fmt::Display for UringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UringError::InvalidConfig { complaint } => {
                write!(f, "the io_uring driver is told something impossible: {complaint}")
            }
            UringError::Refused { error, sysctl: Some(value) } if value != "0" => write!(
                f,
                "io_uring is refused to this process ({error}): the system has \
                 kernel.io_uring_disabled = {value}; set it to 0, or use the epoll driver"
            ),
            UringError::Refused { error, .. } => write!(
                f,
                "io_uring is refused to this process ({error}), as by the seccomp profile of a \
                 container or by a kernel built without it; allow io_uring_setup, io_uring_enter \
                 and io_uring_register, or use the epoll driver"
            ),
            UringError::NoMemory { step, error } => write!(
                f,
                "no memory for {step} ({error}): raise the limit on locked memory (ulimit -l, \
                 LimitMEMLOCK=) or the memory of the control group, ask for fewer receive buffers \
                 and queue entries, or use the epoll driver"
            ),
            UringError::TooOld { missing } => write!(
                f,
                "this kernel has io_uring, but no {missing}: use Linux 5.19 or later (6.1 or \
                 later for speed), or the epoll driver"
            ),
            UringError::Failed { step, error } => {
                write!(f, "{step} failed: {error}{}", descriptors::advice(error))
            }
        }
    }
}

impl std::error::Error for UringError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UringError::Refused { error, .. }
            | UringError::NoMemory { error, .. }
            | UringError::Failed { error, .. } => Some(error),
            UringError::InvalidConfig { .. } | UringError::TooOld { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_nonsense_is_named() {
        assert!(UringConfig::default().validate().is_ok());
        let bad = |change: fn(&mut UringConfig), name: &str| {
            let mut config = UringConfig::default();
            change(&mut config);
            let error = config.validate().expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
            assert!(!error.suggests_another_driver());
        };
        bad(|config| config.sockets_max = 0, "sockets_max");
        bad(|config| config.sockets_max = u32::MAX, "sockets_max");
        bad(|config| config.receive_buffers = 100, "receive_buffers");
        bad(|config| config.receive_buffer_bytes = 1, "receive_buffer_bytes");
        bad(|config| config.completion_entries = 1, "completion_entries");
        bad(|config| config.submission_entries = 0, "submission_entries");
    }

    #[test]
    fn sets_have_names() {
        let two = Features::EAGER_SEND.with(Features::DEFER_TASKRUN);
        assert_eq!(two.to_string(), "defer-taskrun eager-send");
        assert_eq!(two.without(Features::EAGER_SEND), Features::DEFER_TASKRUN);
        assert_eq!(Features::NONE.to_string(), "none");
        assert_eq!(Features::ALL.iter().count(), NAMES.len());
        assert!(Features::ALL.contains(two) && !two.contains(Features::ALL));
    }

    #[test]
    fn errors_say_what_to_do() {
        let refused = UringError::new("setup", io::Error::from_raw_os_error(libc::EPERM));
        assert!(refused.suggests_another_driver());
        assert!(refused.to_string().contains("use the epoll driver"), "{refused}");
        let memory = UringError::new("the ring", io::Error::from_raw_os_error(libc::ENOMEM));
        assert!(memory.to_string().contains("ulimit -l"), "{memory}");
    }
}
