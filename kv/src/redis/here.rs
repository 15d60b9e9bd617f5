//! Commands about the connection and the server: carried out where the connection is.
//!
//! | file | what |
//! |---|---|
//! | [`connection`] | `AUTH` `HELLO` `CLIENT` `RESET` |
//! | [`client_kill`] | `CLIENT KILL`, the connections of a shard that it means |
//! | [`client_list`] | `CLIENT LIST`, a shard's part of it |
//! | [`info`] | `INFO` |
//! | [`config`] | `CONFIG` |
//! | [`cluster`] | `CLUSTER`: each shard that has a port of its own is a node |
//! | [`docs`] | `COMMAND` |
//! | [`slowlog`] | `SLOWLOG` |
//! | `subcommand` | commands that are many |

pub mod client_kill;
pub mod client_list;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod docs;
pub mod info;
pub mod slowlog;
mod subcommand;

use super::client::{Client, ClientState};
use super::server::Server;
use crate::command::Done;
use crate::command::error::Error;
use crate::command::number::{Digits, integer};
use crate::command::spec::Here;
use crate::resp::{Args, Reply};
use crate::store::Store;
use catena_engine::application::Addresses;
use catena_engine::time::Instant;
use subcommand::{Sub, choose, sub};

/// What these commands are told of where they are.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The server.
    pub server: &'a Server,
    /// This shard's keys.
    pub store: &'a Store,
    /// This shard's connections, but for the one that a command came by.
    pub clients: &'a [Option<Box<Client>>],
    /// Where the shards are reached.
    pub addresses: &'a Addresses,
    /// False while this shard's keys are not there yet.
    pub is_serving: bool,
    /// This turn's instant.
    pub now: Instant,
    /// Unix time in milliseconds.
    pub now_ms: u64,
}

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It goes on.
    Stays,
    /// It ends when its answers are out.
    Closes,
}

/// Carries a command out and appends its answer to `text`, which is empty.
pub fn run(
    command: Here,
    client: &mut ClientState,
    place: &Place<'_>,
    args: &Args<'_>,
    text: &mut Vec<u8>,
) -> Ended {
    if let Err(error) = carry_out(command, client, place, args, text) {
        text.clear();
        Reply::new(text, client.protocol).error(&*error.0);
    }
    match command {
        Here::Quit => Ended::Closes,
        // Whoever has asked for no answers would take the next ones for others'.
        Here::Client if connection::wants_silence(args) => Ended::Closes,
        // It has no answer but that the connection ends.
        Here::Shutdown if text.is_empty() => Ended::Closes,
        _ => Ended::Stays,
    }
}

fn carry_out(
    command: Here,
    client: &mut ClientState,
    place: &Place<'_>,
    args: &Args<'_>,
    text: &mut Vec<u8>,
) -> Done {
    // These change the protocol in which they answer.
    match command {
        Here::Hello => return connection::hello(client, place, args, text),
        Here::Reset => connection::reset(client, place.server),
        _ => {}
    }
    let reply = &mut Reply::new(text, client.protocol);
    match command {
        Here::Hello | Here::Reset => reply.simple("RESET"),
        Here::Auth => connection::auth(client, place, args, reply)?,
        Here::Client => connection::client(client, place, args, reply)?,
        Here::Cluster => cluster::run(place, args, reply)?,
        Here::Command => docs::run(args, reply)?,
        Here::Config => config::run(client, place, args, reply)?,
        Here::Echo => reply.bulk(args.at(1)),
        Here::Info => info::run(client, place, args, reply),
        Here::LastSave => reply.integer((place.server.last_save_ms() / 1_000).cast_signed()),
        Here::Memory => memory(args, reply)?,
        Here::Object => object(args, reply)?,
        Here::Ping => ping(args, reply)?,
        Here::ReadOnly | Here::ReadWrite => {
            client.is_readonly = command == Here::ReadOnly;
            reply.ok();
        }
        Here::Quit => reply.ok(),
        Here::Select => select(args, reply)?,
        Here::Shutdown => shutdown(place.server, args)?,
        Here::Slowlog => slowlog::run(place, args, reply)?,
        Here::Time => time(place.now_ms, reply),
        Here::Wait => wait(args, reply)?,
    }
    Ok(())
}

fn ping(args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    match args.len() {
        1 => reply.simple("PONG"),
        2 => reply.bulk(args.at(1)),
        _ => return Err(Error::arity("ping")),
    }
    Ok(())
}

fn select(args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    match i32::try_from(integer(args.at(1))?) {
        Ok(0) => reply.ok(),
        Err(_) => {
            return Err(Error::fixed(
                "ERR value is out of range, value must between -2147483648 and 2147483647",
            ));
        }
        Ok(_) => return Err(Error::fixed("ERR DB index is out of range")),
    }
    Ok(())
}

/// Seconds, and microseconds of the second: in steps of a thousand, for the store's clock has milliseconds.
fn time(now_ms: u64, reply: &mut Reply<'_>) {
    reply.array(2);
    for number in [now_ms / 1_000, now_ms % 1_000 * 1_000] {
        reply.bulk(Digits::of(number.cast_signed()).bytes());
    }
}

/// There are no replicas: none has the write, and none would if the client waited.
fn wait(args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    integer(args.at(1))?;
    let timeout = integer(args.at(2));
    match timeout {
        Err(_) => return Err(Error::fixed("ERR timeout is not an integer or out of range")),
        Ok(..0) => return Err(Error::fixed("ERR timeout is negative")),
        Ok(_) => reply.integer(0),
    }
    Ok(())
}

/// Asks for the end, in order, as the signal does: the log comes to rest, whether `SAVE` is said or not.
fn shutdown(server: &Server, args: &Args<'_>) -> Done {
    let words: Vec<Vec<u8>> = args.iter().skip(1).map(<[u8]>::to_ascii_lowercase).collect();
    let has = |word: &[u8]| words.iter().any(|it| it == word);
    let are_known = words
        .iter()
        .all(|word| matches!(word.as_slice(), b"nosave" | b"save" | b"now" | b"force" | b"abort"));
    if !are_known || has(b"save") && has(b"nosave") || has(b"abort") && words.len() > 1 {
        return Err(Error::SYNTAX);
    }
    if has(b"abort") {
        return Err(Error::fixed("ERR No shutdown in progress."));
    }
    server.end();
    Ok(())
}

/// What is about a key is not among them: it runs where the key is.
fn object(args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    const SUBS: &[Sub<()>] = &[
        sub("encoding", 3, (), "ENCODING <key>", "Tells how Redis would keep the value."),
        sub("freq", 3, (), "FREQ <key>", "Refused: how often a key is used is not counted."),
        sub(
            "idletime",
            3,
            (),
            "IDLETIME <key>",
            "Tells for how many seconds a key was not used, within four; from zero again after three days.",
        ),
        sub("refcount", 3, (), "REFCOUNT <key>", "Tells that the value is this key's alone: 1."),
    ];
    choose("object", SUBS, args, reply).map(drop)
}

/// `MEMORY USAGE` is not among them: it is about a key, so that it runs where the key is.
fn memory(args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    const SUBS: &[Sub<()>] = &[sub(
        "usage",
        -3,
        (),
        "USAGE <key> [SAMPLES <count>]",
        "Tells what a key takes, in bytes.",
    )];
    choose("memory", SUBS, args, reply).map(drop)
}
