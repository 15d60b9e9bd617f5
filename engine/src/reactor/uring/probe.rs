//! Finding out what this kernel offers, newest feature first, and doing without the rest.

use super::config::{Features, UringConfig, UringError};
use crate::driver::Output;
use crate::limits;
use crate::sys::pool::Pool;
use crate::sys::ring::{Brings, Gather, Ring, Setup, Wait};
use crate::sys::submit::Patience;
use crate::time::Duration;
use bytes::Bytes;
use io_uring::opcode;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Flags of the set-up, newest first: the order in which they are given up.
const SETUP: [Features; 5] = [
    Features::NO_SQARRAY,
    Features::DEFER_TASKRUN,
    Features::SINGLE_ISSUER,
    Features::TASKRUN_FLAG,
    Features::SUBMIT_ALL,
];

/// A ring with all that this kernel offers of what `config` allows, and what that is.
pub(super) fn open(config: &UringConfig) -> Result<(Ring, Features), UringError> {
    config.validate()?;
    let (mut ring, mut features) = set_up(config, Features::ALL.without(config.disable))?;
    let probe = ring.probe().map_err(|error| UringError::new("probing io_uring", error))?;
    // One release brought both, and only one of them has an operation number to ask for.
    if !probe.is_supported(opcode::SendZc::CODE) {
        features = features.without(Features::MULTISHOT_RECEIVE);
    }
    if !probe.is_supported(opcode::MsgRingData::CODE) {
        features = features.without(Features::RING_MESSAGE);
    }
    if features.contains(Features::RING_DESCRIPTOR) && ring.register_descriptor().is_err() {
        features = features.without(Features::RING_DESCRIPTOR);
    }
    if features.contains(Features::RING_MESSAGE) && !messages_wake(&mut ring, config, features) {
        features = features.without(Features::RING_MESSAGE);
    }
    if features.contains(Features::EAGER_SEND) && !eager_sends_own_up(&mut ring) {
        features = features.without(Features::EAGER_SEND);
    }
    if !ring.can_gather() {
        features = features.without(Features::MIN_WAIT);
    }
    if config.gather > Duration::ZERO && features.contains(Features::MIN_WAIT) {
        let completions = limits::GATHER_COMPLETIONS;
        ring.set_gather(Gather { completions, at_most: config.gather });
    }
    Ok((ring, features))
}

/// Hands `pool` to the ring; without buffer rings there is no driver.
pub(super) fn provide(ring: &mut Ring, pool: Arc<Pool>) -> Result<(), UringError> {
    ring.provide_buffers(pool).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => UringError::TooOld { missing: "ring of provided buffers" },
        _ => UringError::new("the ring of receive buffers", error),
    })
}

fn set_up(config: &UringConfig, mut features: Features) -> Result<(Ring, Features), UringError> {
    loop {
        if !features.contains(Features::SINGLE_ISSUER) {
            features = features.without(Features::DEFER_TASKRUN);
        }
        let error = match Ring::new(&setup(config, features)) {
            Ok(ring) => return Ok((ring, features)),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(UringError::new("setting up io_uring", error));
        }
        let Some(newest) = SETUP.into_iter().find(|one| features.contains(*one)) else {
            return Err(UringError::TooOld { missing: "completion queue of a chosen size" });
        };
        features = features.without(newest);
    }
}

pub(super) fn setup(config: &UringConfig, features: Features) -> Setup {
    Setup {
        submission_entries: config.submission_entries,
        completion_entries: config.completion_entries,
        no_sqarray: features.contains(Features::NO_SQARRAY),
        defer_taskrun: features.contains(Features::DEFER_TASKRUN),
        single_issuer: features.contains(Features::SINGLE_ISSUER),
        taskrun_flag: features.contains(Features::TASKRUN_FLAG),
        submit_all: features.contains(Features::SUBMIT_ALL),
    }
}

/// True if a message from ring to ring wakes its receiver. That the kernel knows the operation does not
/// say that it works between rings set up as these are, and a wake that is lost is a shard that
/// sleeps on, so this is tried and not assumed.
fn messages_wake(ring: &mut Ring, config: &UringConfig, features: Features) -> bool {
    try_message(ring, config, features).unwrap_or(false)
}

fn try_message(ring: &mut Ring, config: &UringConfig, features: Features) -> io::Result<bool> {
    let small = Setup { submission_entries: 1, completion_entries: 2, ..setup(config, features) };
    let mut other = Ring::new(&small)?;
    let descriptor = other.share_descriptor()?;
    ring.message(descriptor.as_fd(), 0);
    ring.enter(Wait::No)?;
    // It has arrived before it is over for the sender; the receiver may have to go and fetch it.
    other.enter(Wait::No)?;
    let has_failed = ring.next_reaped().is_some();
    Ok(other.take_wake() && !has_failed)
}

/// True if an eager send that does not fit says exactly how much of it went. A kernel that kept
/// silent, or said that nothing went, would corrupt a stream, so this is tried and not assumed: for
/// one piece of memory and for several, which are different operations.
fn eager_sends_own_up(ring: &mut Ring) -> bool {
    const BYTES: usize = 1 << 20;
    let mut single = Output::default();
    single.copied_mut().resize(BYTES, 0);
    let mut several = Output::default();
    several.copied_mut().resize(BYTES / 2, 0);
    several.share(Bytes::from(vec![0; BYTES / 2]));
    let outputs = [single, several];
    ring.skips_success()
        && outputs.into_iter().all(|output| try_eager_send(ring, output).unwrap_or(false))
}

fn try_eager_send(ring: &mut Ring, output: Output) -> io::Result<bool> {
    let whole = output.len();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (sender, receiver) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_send_buffer_size(&sender, 4_096)?;
    ring.send(sender.as_fd(), output, Patience::Eager, 0);
    ring.enter(Wait::No)?;
    let Some(told) = ring.next_reaped() else { return Ok(false) };
    if let Brings::Memory(landed) = told.brings {
        ring.discard(landed);
    }
    let (mut went, mut bytes) = (0, vec![0u8; 1 << 16]);
    while let Ok((count, _)) = rustix::net::recv(&receiver, &mut bytes[..], RecvFlags::empty()) {
        went += count;
    }
    Ok(told.result > 0 && told.result as usize == went && went < whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is tried works where the rest does: a trial that is wrong would cost the feature in silence.
    #[test]
    fn what_is_tried_is_found() {
        match open(&UringConfig::default()) {
            Ok((ring, features)) => {
                let probe = ring.probe().expect("it was probed before");
                let has_messages = probe.is_supported(opcode::MsgRingData::CODE);
                assert_eq!(features.contains(Features::RING_MESSAGE), has_messages, "{features}");
                // As old as the flags of its set-up, and tried on every kernel since.
                let is_recent = features.contains(Features::DEFER_TASKRUN);
                assert!(!is_recent || features.contains(Features::EAGER_SEND), "{features}");
            }
            Err(UringError::Refused { error, .. }) => {
                println!("skipped: io_uring is refused here: {error}");
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn every_feature_can_be_done_without() {
        for one in Features::ALL.iter().chain([Features::NONE, Features::ALL]) {
            let config = UringConfig { disable: one, ..UringConfig::default() };
            match open(&config) {
                Ok((_ring, features)) => assert!(
                    one == Features::NONE || !features.contains(one),
                    "without {one} there is {features}"
                ),
                Err(UringError::Refused { error, .. }) => {
                    println!("skipped: io_uring is refused here: {error}");
                    return;
                }
                Err(error) => panic!("without {one}: {error}"),
            }
        }
    }
}
