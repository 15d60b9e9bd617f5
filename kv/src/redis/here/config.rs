//! `CONFIG`: how the server is set up, under the names by which clients and tools ask Redis.

use super::Place;
use super::subcommand::{Sub, choose, sub};
use crate::command::Done;
use crate::command::error::Error;
use crate::command::glob::matches;
use crate::command::number::integer;
use crate::redis::client::ClientState;
use crate::redis::server::Durability;
use crate::resp::{Args, Reply};

#[derive(Clone, Copy)]
enum Verb {
    Get,
    ResetStat,
    Rewrite,
    Set,
}

const SUBS: &[Sub<Verb>] = &[
    sub("get", -3, Verb::Get, "GET <pattern> [...]", "Tells the settings whose names match."),
    sub("resetstat", 2, Verb::ResetStat, "RESETSTAT", "Counts from zero on what INFO counts."),
    sub("rewrite", 2, Verb::Rewrite, "REWRITE", "Refused: nothing is set that would be lost."),
    sub(
        "set",
        -4,
        Verb::Set,
        "SET <name> <value> [...]",
        "Sets slowlog-log-slower-than or slowlog-max-len; the rest is set at the start.",
    ),
];

pub(super) fn run(
    client: &ClientState,
    place: &Place<'_>,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Done {
    let Some(verb) = choose("config", SUBS, args, reply)? else { return Ok(()) };
    match verb {
        Verb::Get => get(client, place, args, reply),
        Verb::ResetStat => {
            place.server.forget_stats();
            reply.ok();
        }
        Verb::Rewrite => {
            return Err(Error::fixed("ERR The server is running without a config file"));
        }
        Verb::Set => {
            set(client, place, args)?;
            reply.ok();
        }
    }
    Ok(())
}

fn get(client: &ClientState, place: &Place<'_>, args: &Args<'_>, reply: &mut Reply<'_>) {
    let mut settings = settings(client, place);
    let patterns: Vec<Vec<u8>> = args.iter().skip(2).map(<[u8]>::to_ascii_lowercase).collect();
    settings.retain(|(name, _)| patterns.iter().any(|pattern| matches(pattern, name.as_bytes())));
    reply.map(settings.len());
    for (name, value) in settings {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

const SLOWER_THAN: &str = "slowlog-log-slower-than";
const SLOW_LEN: &str = "slowlog-max-len";

/// All of them, but for the password, which nobody needs to be told who knows it.
fn settings(client: &ClientState, place: &Place<'_>) -> Vec<(&'static str, String)> {
    let server = place.server;
    let address = match client.is_on_own_port {
        true => place.addresses.shards.get(place.store.config().shard.index()).copied(),
        false => place.addresses.shared,
    };
    let yes_or_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    let fsync = match server.durability {
        Durability::Memory => "no",
        Durability::Batch => "everysec",
        Durability::Sync => "always",
    };
    vec![
        ("appendfsync", fsync.to_owned()),
        ("appendonly", yes_or_no(server.durability != Durability::Memory)),
        ("bind", address.map(|address| address.ip().to_string()).unwrap_or_default()),
        ("cluster-enabled", yes_or_no(!place.addresses.shards.is_empty())),
        ("databases", "1".to_owned()),
        ("maxclients", server.clients_max.to_string()),
        ("maxmemory", server.memory_bytes_max.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", address.map_or(0, |address| address.port()).to_string()),
        ("proto-max-bulk-len", server.value_bytes_max.to_string()),
        ("save", String::new()),
        (SLOWER_THAN, server.slow_log.threshold_us().to_string()),
        (SLOW_LEN, server.slow_log.entries_max().to_string()),
        ("timeout", "0".to_owned()),
    ]
}

/// Sets all that are named, or none.
fn set(client: &ClientState, place: &Place<'_>, args: &Args<'_>) -> Done {
    let log = &place.server.slow_log;
    let pairs = || {
        (2..args.len()).step_by(2).map(|at| (args.at(at).to_ascii_lowercase(), args.get(at + 1)))
    };
    for (name, value) in pairs() {
        let value = value.ok_or_else(|| Error::arity("config|set"))?;
        let text = String::from_utf8_lossy(&name);
        let failed = |why: &str| {
            Error::of(format!(
                "ERR CONFIG SET failed (possibly related to argument '{text}') - {why}"
            ))
        };
        match (&*text, integer(value)) {
            (SLOWER_THAN, Ok(-1..)) | (SLOW_LEN, Ok(0..)) => {}
            (SLOWER_THAN | SLOW_LEN, Ok(_)) => return Err(failed("argument is out of range")),
            (SLOWER_THAN | SLOW_LEN, Err(_)) => {
                return Err(failed("argument couldn't be parsed into an integer"));
            }
            _ if settings(client, place).iter().any(|(name, _)| *name == text) => {
                return Err(failed(
                    "can't set immutable config: it is given when the server starts",
                ));
            }
            _ => {
                return Err(Error::of(format!(
                    "ERR Unknown option or number of arguments for CONFIG SET - '{text}'"
                )));
            }
        }
    }
    for (name, value) in pairs() {
        let number = value.and_then(|value| integer(value).ok()).unwrap_or_default();
        if name == SLOWER_THAN.as_bytes() {
            log.set_threshold_us(number);
        } else {
            log.set_entries_max(usize::try_from(number).unwrap_or_default());
        }
    }
    Ok(())
}
