//! `CLIENT KILL`: which of a shard's connections are to be ended.

use super::Place;
use super::client_list::is_of_a_kind_here;
use super::connection::USER;
use crate::command::error::Error;
use crate::command::number::integer;
use crate::redis::client::ClientState;
use crate::resp::Args;
use catena_engine::stream::StreamId;

/// Those of this shard's connections that are meant. `own`: the one that asks, if it is one of them.
///
/// # Errors
/// If an argument is wrong.
pub fn meant(
    place: &Place<'_>,
    args: &Args<'_>,
    own: Option<StreamId>,
) -> Result<Vec<StreamId>, Error> {
    let meant = Meant::parse(args)?;
    let all = place.clients.iter().flatten().map(|client| &client.state);
    let is_spared = |client: &ClientState| meant.spares_own && own == Some(client.stream);
    let meant = all.filter(|client| meant.has(client, place) && !is_spared(client));
    Ok(meant.map(|client| client.stream).collect())
}

/// What `CLIENT KILL` says of the connections that it means: all that it says is true of them.
#[derive(Debug)]
pub struct Meant<'a> {
    id: Option<i64>,
    address: Option<&'a [u8]>,
    own_address: Option<&'a [u8]>,
    /// False: they are of a kind that there is not here.
    is_of_a_kind_here: bool,
    spares_own: bool,
}

impl<'a> Meant<'a> {
    /// Reads the arguments of the command: an address, or pairs of a word and what it is to be.
    ///
    /// # Errors
    /// If one is wrong.
    pub fn parse(args: &Args<'a>) -> Result<Self, Error> {
        let mut meant = Meant {
            id: None,
            address: None,
            own_address: None,
            is_of_a_kind_here: true,
            spares_own: true,
        };
        if args.len() == 3 {
            return Ok(Meant { address: Some(args.at(2)), spares_own: false, ..meant });
        }
        for at in (2..args.len()).step_by(2) {
            let (Some(word), Some(value)) = (args.get(at), args.get(at + 1)) else {
                return Err(Error::SYNTAX);
            };
            match word.to_ascii_lowercase().as_slice() {
                b"id" => meant.id = Some(id(value)?),
                b"addr" => meant.address = Some(value),
                b"laddr" => meant.own_address = Some(value),
                b"type" => meant.is_of_a_kind_here = is_of_a_kind_here(value)?,
                b"user" => check_user(value)?,
                b"skipme" => meant.spares_own = yes_or_no(value)?,
                _ => return Err(Error::SYNTAX),
            }
        }
        Ok(meant)
    }

    fn has(&self, client: &ClientState, place: &Place<'_>) -> bool {
        let is = |wanted: Option<&[u8]>, address: Option<std::net::SocketAddr>| {
            let address = address.map(|address| address.to_string()).unwrap_or_default();
            wanted.is_none_or(|wanted| wanted == address.as_bytes())
        };
        self.is_of_a_kind_here
            && self.id.is_none_or(|id| id == client.id.cast_signed())
            && is(self.address, client.address)
            && is(self.own_address, place.address_of(client))
    }
}

fn id(text: &[u8]) -> Result<i64, Error> {
    let id = integer(text).ok().filter(|id| *id > 0);
    id.ok_or(Error::fixed("ERR client-id should be greater than 0"))
}

/// There is one user, who is everybody.
fn check_user(name: &[u8]) -> Result<(), Error> {
    if name == USER {
        return Ok(());
    }
    Err(Error::of(format!("ERR No such user '{}'", String::from_utf8_lossy(name))))
}

fn yes_or_no(text: &[u8]) -> Result<bool, Error> {
    match text.to_ascii_lowercase().as_slice() {
        b"yes" => Ok(true),
        b"no" => Ok(false),
        _ => Err(Error::SYNTAX),
    }
}
