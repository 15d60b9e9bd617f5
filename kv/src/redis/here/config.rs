//! `CONFIG`: how the server is set up, under the names by which clients and tools ask Redis.

use super::Place;
use super::subcommand::{Sub, choose, sub};
use crate::command::Done;
use crate::command::error::Error;
use crate::command::glob::matches;
use crate::command::number::integer;
use crate::redis::client::ClientState;
use crate::resp::{Args, Reply};
use crate::store::Durability;

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
    let fsync = match server.config.durability {
        None | Some(Durability::Memory) => "no",
        Some(Durability::Batch) => "everysec",
        Some(Durability::Sync) => "always",
    };
    vec![
        ("appendfsync", fsync.to_owned()),
        ("appendonly", yes_or_no(server.config.is_durable())),
        ("bind", address.map(|address| address.ip().to_string()).unwrap_or_default()),
        ("cluster-enabled", yes_or_no(!place.addresses.shards.is_empty())),
        ("databases", "1".to_owned()),
        ("maxclients", server.config.clients_max.to_string()),
        ("maxmemory", server.config.memory_bytes_max.to_string()),
        ("maxmemory-policy", server.config.eviction_name().to_owned()),
        ("port", address.map_or(0, |address| address.port()).to_string()),
        ("proto-max-bulk-len", server.config.value_bytes_max.to_string()),
        ("save", String::new()),
        (SLOWER_THAN, server.slow_log.threshold_us().to_string()),
        (SLOW_LEN, server.slow_log.entries_max().to_string()),
        ("timeout", "0".to_owned()),
    ]
}

/// Sets all that are named, or none.
fn set(client: &ClientState, place: &Place<'_>, args: &Args<'_>) -> Done {
    if !args.len().is_multiple_of(2) {
        return Err(Error::SYNTAX);
    }
    let changes: Vec<Change> = (2..args.len())
        .step_by(2)
        .map(|at| Change::parse(args.at(at), args.at(at + 1), client, place))
        .collect::<Result<_, _>>()?;
    let log = &place.server.slow_log;
    for change in changes {
        match change {
            Change::SlowerThan(micros) => log.set_threshold_us(micros),
            Change::SlowLen(count) => log.set_entries_max(count),
        }
    }
    Ok(())
}

/// What can be set while the server runs.
enum Change {
    SlowerThan(i64),
    SlowLen(usize),
}

impl Change {
    fn parse(
        name: &[u8],
        value: &[u8],
        client: &ClientState,
        place: &Place<'_>,
    ) -> Result<Self, Error> {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let failed = |why: &str| {
            let argument = format!("possibly related to argument '{name}'");
            Error::of(format!("ERR CONFIG SET failed ({argument}) - {why}"))
        };
        let number = |min| match integer(value) {
            Ok(number) if number >= min => Ok(number),
            Ok(_) => {
                let max = i64::MAX;
                Err(failed(&format!("argument must be between {min} and {max} inclusive")))
            }
            Err(_) => Err(failed("argument couldn't be parsed into an integer")),
        };
        match &*name {
            SLOWER_THAN => number(-1).map(Change::SlowerThan),
            SLOW_LEN => {
                number(0).map(|count| Change::SlowLen(usize::try_from(count).unwrap_or(usize::MAX)))
            }
            _ if settings(client, place).iter().any(|(other, _)| *other == name) => {
                Err(failed("can't set immutable config: it is given when the server starts"))
            }
            _ => Err(Error::of(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            ))),
        }
    }
}
