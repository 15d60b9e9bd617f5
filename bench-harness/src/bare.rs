//! `bare`: the echo servers without an engine, as a process of its own to be measured.

use crate::Failure;
use crate::cli::BareArgs;
use crate::host;
use crate::serve::{announce, wait_for_end_of_stdin};
use catena_engine::DriverChoice;
use catena_engine::reactor::turn::PollMode;
use catena_engine::reactor::{epoll, uring};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;

/// Echoes until standard input ends.
pub fn bare(args: &BareArgs) -> Result<(), Failure> {
    if let Some(core) = args.core {
        host::pin(core).map_err(|error| format!("cannot run on core {core}: {error}"))?;
    }
    std::thread::spawn(|| {
        wait_for_end_of_stdin();
        std::process::exit(0);
    });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let never = AtomicBool::new(false);
    let spins = args.poll == PollMode::Always;
    let bound = |address| {
        let line = format!("bare echo on {}, --poll {}", args.driver, args.poll);
        // Nobody who waits for this line is left if it cannot be written.
        let _gone = announce(&[line], address);
    };
    match args.driver {
        DriverChoice::Epoll => {
            use epoll::bare_echo::{Idle, serve};
            let idle = if spins { Idle::Spin } else { Idle::Sleep };
            Ok(serve(address, idle, &never, bound)?)
        }
        DriverChoice::Uring | DriverChoice::Auto => {
            use uring::bare_echo::{Idle, serve};
            let idle = if spins { Idle::Spin } else { Idle::Sleep };
            Ok(serve(address, idle, &never, bound)?)
        }
    }
}
