//! catena-bench: a load generator that tells what its figures mean, and when they mean nothing.
//!
//! # The way of a request
//!
//! [`schedule`] says when it is meant to be sent → [`lanes`] finds it a connection, or lets it wait →
//! [`protocol`] makes it bytes, and the answer's bytes its end → [`worker`] moves the bytes over the
//! engine's driver seam → [`recording`] writes down both its times → [`load`] adds up the workers →
//! [`report`] tells.
//!
//! # What each figure means, and how it can lie
//!
//! - **Response time** counts from the intended instant, **service time** from the actual send. In a
//!   closed loop they are one, and a server that stalls is asked less: its tail looks better than it
//!   is. An open loop (`-R`) has no such mercy.
//! - **Rate** is what was answered with "ok" within the measured time. If the generator is saturated,
//!   it is the generator's rate; the report says so and calls the run invalid.
//! - **Server CPU per request** is the run time that the kernel's scheduler has accounted to the
//!   server's process, over the requests answered meanwhile. On loopback the sender also pays for
//!   much of the receiver's part of TCP, and a busier server batches more, so it is comparable only
//!   between servers under the same load from the same generator, which is what `floor` does.
//! - **CPU share** of the generator is 100 % whenever it spins; **busy share** leaves the spinning out.
//!
//! | file | what |
//! |---|---|
//! | [`cli`], [`method`] | what can be asked for |
//! | [`serve`], [`work`], [`bare`], [`child`] | servers, here and in processes of their own |
//! | [`run`], [`cell`], [`floor`], [`quick`] | the verbs |
//! | [`balance`] | policies of balancing against scenarios, simulated and live |
//! | [`idle`] | connections that do nothing |
//! | [`host`], [`interrupt`] | the machine, and whoever presses ^C |
//! | [`publish`] | where reports go |
//! | [`table`] | tables and numbers for people |

mod balance;
mod bare;
mod cell;
mod child;
mod cli;
mod floor;
mod host;
mod idle;
mod interrupt;
mod lanes;
mod load;
mod method;
mod protocol;
mod publish;
mod quick;
mod recording;
mod report;
mod run;
mod schedule;
mod serve;
mod table;
mod work;
mod worker;

use clap::Parser;
use cli::{Cli, Verb};
use std::process::ExitCode;

/// Why a verb failed, for people: the message says whose fault it was and what to do.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How a verb ended that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    /// All is done.
    Done,
    /// There is a report, and the server was not there all the time.
    ServerLost,
    /// There is a report of what was measured until somebody wanted it to end.
    Interrupted,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    host::raise_open_files_max();
    let ended = match &cli.verb {
        Verb::Quick(args) => quick::quick(args),
        Verb::Run(args) => run::run(args),
        Verb::Serve(args) => serve::serve(args).map(|()| Ended::Done),
        Verb::Floor(args) => floor::floor(args),
        Verb::Balance(args) => balance::balance(args),
        Verb::Bare(args) => bare::bare(args).map(|()| Ended::Done),
    };
    match ended {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::ServerLost) => ExitCode::from(4),
        Ok(Ended::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Err(failure) => {
            eprintln!("catena-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
