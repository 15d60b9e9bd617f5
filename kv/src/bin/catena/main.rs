//! `catena`: what runs beside a service. One binary, a subcommand for each use.
//!
//! | file | what |
//! |---|---|
//! | [`cli`] | what can be asked for |
//! | [`check`] | what cannot be meant together |
//! | [`facts`] | what clients may ask about the server |
//! | [`proxy`] | `catena proxy`: balances requests over servers |
//! | [`config_file`] | the same in a file |
//! | [`serve`] | `catena serve`: the store |
//! | [`backup`] | `catena backup`, `catena restore` |
//! | [`cluster`] | `catena cluster`: makes one, tells how it is |
//! | [`upstream`] | where those servers are named |
//! | [`ends`] | what ends a server |
//!
//! Log lines, numbers with units and the page of counters are of the crate `catena-cli`.

#![forbid(unsafe_code)]

mod backup;
mod check;
mod cli;
mod cluster;
mod config_file;
mod ends;
mod facts;
mod free_memory;
mod memory_limit;
mod proxy;
mod serve;
mod upstream;

use check::Given;
use clap::{CommandFactory, FromArgMatches};
use cli::{Cli, Verb};
use std::process::ExitCode;

/// Why a verb failed, for people: the message says whose fault it was and what to do.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args = match config_file::expand(&Cli::command(), std::env::args_os().collect()) {
        Ok(args) => args,
        Err(failure) => return misused(&*failure),
    };
    let matches = Cli::command().get_matches_from(args);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let given = Given::of(&matches);
    let checked = match &cli.verb {
        Verb::Proxy(args) => check::proxy(args),
        Verb::Serve(args) => check::serve(args, &given),
        Verb::Backup(_) | Verb::Restore(_) | Verb::Cluster(_) => Ok(()),
    };
    if let Err(problem) = checked {
        return misused(&problem);
    }
    let ended = match &cli.verb {
        Verb::Proxy(args) => proxy::run(args, &given),
        Verb::Serve(args) => serve::run(args, &given),
        Verb::Backup(args) => backup::take(args),
        Verb::Restore(args) => backup::restore(args),
        Verb::Cluster(args) => cluster::run(args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("catena: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The end of who is asked for what cannot be.
fn misused(problem: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("catena: {problem}");
    ExitCode::from(2)
}
