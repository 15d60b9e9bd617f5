//! `CLIENT LIST`: a shard's connections, as lines.

use super::Place;
use super::connection::{USER, number_of};
use crate::command::error::Error;
use crate::command::number::integer;
use crate::redis::client::ClientState;
use crate::resp::Args;
use std::fmt::Write;

/// The lines of this shard's connections that are asked for, the oldest first, and how many they are.
///
/// # Errors
/// If an argument is wrong.
pub fn list(place: &Place<'_>, args: &Args<'_>) -> Result<(u64, String), Error> {
    let wanted = Wanted::parse(args)?;
    let all = place.clients.iter().flatten().map(|client| &client.state);
    let mut clients: Vec<&ClientState> = all.filter(|client| wanted.has(client)).collect();
    clients.sort_by_key(|client| client.id);
    let mut text = String::new();
    clients.iter().for_each(|client| describe(client, place, &mut text));
    Ok((clients.len() as u64, text))
}

/// Which connections `CLIENT LIST` shall tell.
pub enum Wanted {
    /// All.
    All,
    /// None: they are of a kind that there is not here.
    None,
    /// Those with these numbers.
    Ids(Vec<i64>),
}

impl Wanted {
    /// Reads the arguments of the command.
    ///
    /// # Errors
    /// If one is wrong.
    pub fn parse(args: &Args<'_>) -> Result<Self, Error> {
        let Some(option) = args.get(2) else { return Ok(Wanted::All) };
        if option.eq_ignore_ascii_case(b"type") && args.len() == 4 {
            let is_known = is_of_a_kind_here(args.at(3))?;
            return Ok(if is_known { Wanted::All } else { Wanted::None });
        }
        if option.eq_ignore_ascii_case(b"id") && args.len() > 3 {
            let id = |text| integer(text).map_err(|_| Error::fixed("ERR Invalid client ID"));
            return args.iter().skip(3).map(id).collect::<Result<_, _>>().map(Wanted::Ids);
        }
        Err(Error::SYNTAX)
    }

    fn has(&self, client: &ClientState) -> bool {
        match self {
            Wanted::All => true,
            Wanted::None => false,
            Wanted::Ids(ids) => ids.contains(&client.id.cast_signed()),
        }
    }
}

/// Whether a type of connections, as Redis knows them, is the one that there is here.
///
/// # Errors
/// If there is no such type.
pub(super) fn is_of_a_kind_here(name: &[u8]) -> Result<bool, Error> {
    match name.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(true),
        b"master" | b"replica" | b"slave" | b"pubsub" => Ok(false),
        _ => {
            let name = String::from_utf8_lossy(name);
            Err(Error::of(format!("ERR Unknown client type '{name}'")))
        }
    }
}

/// A connection as a line. Libraries insist on the numbers about its buffers; those that the engine keeps to
/// itself are 0.
pub(super) fn describe(client: &ClientState, place: &Place<'_>, text: &mut String) {
    let laddr = place.address_of(client).map(|address| address.to_string()).unwrap_or_default();
    let addr = client.address.map(|address| address.to_string()).unwrap_or_default();
    let waiting = client.answers.memory_bytes();
    let label = |bytes| String::from_utf8_lossy(bytes);
    writeln!(
        text,
        "id={} addr={addr} laddr={laddr} name={} age={} idle={} flags=N db=0 sub=0 psub=0 ssub=0 \
         multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 obl=0 oll={} omem={waiting} \
         tot-mem={waiting} cmd={} user={} lib-name={} lib-ver={} resp={}",
        client.id,
        label(&client.name),
        place.now.since(client.connected_at).as_secs(),
        place.now.since(client.last_command_at).as_secs(),
        client.answers.len(),
        client.last_command,
        label(USER),
        label(&client.library[0]),
        label(&client.library[1]),
        number_of(client.protocol),
    )
    .expect("a string takes it all");
}

impl Place<'_> {
    /// The address that a connection came in by.
    pub(super) fn address_of(&self, client: &ClientState) -> Option<std::net::SocketAddr> {
        if client.is_on_own_port {
            return self.addresses.shards.get(self.store.config().shard.index()).copied();
        }
        self.addresses.shared
    }
}
