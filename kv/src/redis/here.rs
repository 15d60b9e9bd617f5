//! Commands about the connection and the server: carried out where the connection is.

use super::client::ClientState;
use super::server::Server;
use crate::command::Done;
use crate::command::error::Error;
use crate::command::spec::Here;
use crate::resp::{Args, Reply};
use crate::store::Store;
use catena_engine::application::Addresses;
use catena_engine::time::Instant;

/// What these commands are told of where they are.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The server.
    pub server: &'a Server,
    /// This shard's keys.
    pub store: &'a Store,
    /// Where the shards are reached.
    pub addresses: &'a Addresses,
    /// This turn's instant.
    pub now: Instant,
}

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It goes on.
    Stays,
    /// It ends when its answers are out.
    Closes,
}

/// Carries a command out and appends its answer.
pub fn run(
    command: Here,
    client: &mut ClientState,
    place: &Place<'_>,
    args: &Args<'_>,
    text: &mut Vec<u8>,
) -> Ended {
    let _unused = place;
    let done = match command {
        Here::Ping => ping(client, args, text),
        _ => Err(Error::SYNTAX),
    };
    if let Err(error) = done {
        text.clear();
        Reply::new(text, client.protocol).error(&*error.0);
    }
    if command == Here::Quit { Ended::Closes } else { Ended::Stays }
}

fn ping(client: &ClientState, args: &Args<'_>, text: &mut Vec<u8>) -> Done {
    let mut reply = Reply::new(text, client.protocol);
    match args.len() {
        1 => reply.simple("PONG"),
        2 => reply.bulk(args.at(1)),
        _ => return Err(Error::arity("ping")),
    }
    Ok(())
}
