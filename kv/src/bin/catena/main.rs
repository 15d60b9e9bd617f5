//! `catena`: what runs beside a service. One binary, a subcommand for each use.
//!
//! | file | what |
//! |---|---|
//! | [`cli`] | what can be asked for |
//! | [`facts`] | what clients may ask about the server |
//! | [`proxy`] | `catena proxy`: balances requests over servers |
//! | [`config_file`] | the same in a file |
//! | [`serve`] | `catena serve`: the store |
//! | [`backup`] | `catena backup`, `catena restore` |
//! | [`upstream`] | where those servers are named |
//! | [`ends`] | what ends a server |
//!
//! Log lines, numbers with units and the page of counters are of the crate `catena-cli`.

#![forbid(unsafe_code)]

mod backup;
mod cli;
mod config_file;
mod ends;
mod facts;
mod proxy;
mod serve;
mod upstream;

use clap::{CommandFactory, Parser};
use cli::{Cli, Verb};
use std::process::ExitCode;

/// Why a verb failed, for people: the message says whose fault it was and what to do.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args = match config_file::expand(&Cli::command(), std::env::args_os().collect()) {
        Ok(args) => args,
        Err(failure) => {
            eprintln!("catena: {failure}");
            return ExitCode::from(2);
        }
    };
    let cli = Cli::parse_from(args);
    let ended = match &cli.verb {
        Verb::Proxy(args) => proxy::run(args),
        Verb::Serve(args) => serve::run(args),
        Verb::Backup(args) => backup::take(args),
        Verb::Restore(args) => backup::restore(args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("catena: {failure}");
            ExitCode::FAILURE
        }
    }
}
