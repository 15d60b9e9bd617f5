//! Who a connection is, and how it is spoken to: `AUTH`, `HELLO`, `CLIENT`, `RESET`.

use super::Place;
use super::client_list::describe;
use super::subcommand::{Sub, choose, sub};
use crate::command::Done;
use crate::command::error::Error;
use crate::command::number::integer;
use crate::redis::client::ClientState;
use crate::redis::server::{REDIS_VERSION, Server};
use crate::resp::{Args, Protocol, Reply};

/// The only user there is. Source: Redis.
pub(super) const USER: &[u8] = b"default";

pub(super) fn auth(
    client: &mut ClientState,
    place: &Place<'_>,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Done {
    match args.len() {
        2 if place.server.config.password.is_none() => {
            return Err(Error::fixed(
                "ERR AUTH <password> called without any password configured for the default user. Are \
                 you sure your configuration is correct?",
            ));
        }
        2 => log_in(client, place, USER, args.at(1))?,
        3 => log_in(client, place, args.at(1), args.at(2))?,
        _ => return Err(Error::SYNTAX),
    }
    reply.ok();
    Ok(())
}

fn log_in(client: &mut ClientState, place: &Place<'_>, user: &[u8], password: &[u8]) -> Done {
    let fits = match &place.server.config.password {
        Some(right) => is_same(password, right.as_bytes()),
        None => true,
    };
    if fits && user == USER {
        client.is_authenticated = true;
        return Ok(());
    }
    if let Some(count) = place.server.wrong_password(place.now_ms) {
        let address = client.address.map_or_else(|| "?".to_owned(), |address| address.to_string());
        tracing::warn!(count, last = address, "wrong password or user");
    }
    Err(Error::WRONG_PASS)
}

/// Takes as long for any `given` of one length, so that nobody learns the password byte by byte from the
/// time.
pub(crate) fn is_same(given: &[u8], right: &[u8]) -> bool {
    let differs = |(place, byte): (usize, &u8)| {
        // Of a password that is too short it looks at what is there again and again.
        let other = if right.is_empty() { !*byte } else { right[place % right.len()] };
        byte ^ other
    };
    let difference = given.iter().enumerate().map(differs).fold(0, |sum, bits| sum | bits);
    std::hint::black_box(difference) == 0 && given.len() == right.len()
}

pub(super) fn hello(
    client: &mut ClientState,
    place: &Place<'_>,
    args: &Args<'_>,
    text: &mut Vec<u8>,
) -> Done {
    let protocol = match args.get(1).map(integer) {
        None => client.protocol,
        Some(Ok(2)) => Protocol::Resp2,
        Some(Ok(3)) => Protocol::Resp3,
        Some(Ok(_)) => return Err(Error::fixed("NOPROTO unsupported protocol version")),
        Some(Err(_)) => {
            return Err(Error::fixed("ERR Protocol version is not an integer or out of range"));
        }
    };
    let mut name = None;
    let mut at = 2;
    while let Some(option) = args.get(at) {
        match (args.get(at + 1), args.get(at + 2)) {
            (Some(user), Some(password)) if option.eq_ignore_ascii_case(b"auth") => {
                log_in(client, place, user, password)?;
                at += 3;
            }
            (Some(given), _) if option.eq_ignore_ascii_case(b"setname") => {
                check_label(given, "Client names")?;
                name = Some(given);
                at += 2;
            }
            _ => {
                let option = String::from_utf8_lossy(option);
                return Err(Error::of(format!("ERR Syntax error in HELLO option '{option}'")));
            }
        }
    }
    if !client.is_authenticated {
        return Err(Error::fixed(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
             AUTH <user> <pass> option can be used to authenticate the client and select the RESP \
             protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        client.name = name.to_vec();
    }
    client.protocol = protocol;
    facts(client, &mut Reply::new(text, protocol));
    Ok(())
}

fn facts(client: &ClientState, reply: &mut Reply<'_>) {
    reply.map(7);
    let mode = mode_of(client);
    for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(number_of(client.protocol));
    reply.bulk(b"id");
    reply.integer(client.id.cast_signed());
    for (name, value) in [("mode", mode), ("role", "master")] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
}

pub(super) fn number_of(protocol: Protocol) -> i64 {
    match protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    }
}

/// As it was when it connected.
pub(super) fn reset(client: &mut ClientState, server: &Server) {
    client.transaction = None;
    client.is_readonly = false;
    client.protocol = Protocol::Resp2;
    client.is_authenticated = server.config.password.is_none();
    client.name.clear();
}

#[derive(Clone, Copy)]
enum Verb {
    GetName,
    Id,
    Info,
    Kill,
    List,
    NoEvict,
    NoTouch,
    ReplyOn,
    SetInfo,
    SetName,
}

const SUBS: &[Sub<Verb>] = &[
    sub("getname", 2, Verb::GetName, "GETNAME", "Tells the name of this connection."),
    sub("id", 2, Verb::Id, "ID", "Tells the number of this connection."),
    sub("info", 2, Verb::Info, "INFO", "Tells about this connection."),
    sub(
        "kill",
        -3,
        Verb::Kill,
        "KILL <ip:port>|([ID <id>] [TYPE <type>] [ADDR|LADDR <ip:port>] [USER <name>] [SKIPME YES|NO])",
        "Ends connections of all shards; on a shard's own port, of that shard.",
    ),
    sub(
        "list",
        -2,
        Verb::List,
        "LIST [TYPE NORMAL|MASTER|REPLICA|PUBSUB] [ID <id> ...]",
        "Tells about the connections of all shards; on a shard's own port, of that shard.",
    ),
    sub("no-evict", 3, Verb::NoEvict, "NO-EVICT ON|OFF", "No connection is given up for memory."),
    sub("no-touch", 3, Verb::NoTouch, "NO-TOUCH ON|OFF", "Accepted, without effect."),
    sub("reply", 3, Verb::ReplyOn, "REPLY ON", "Commands are answered, as they always are."),
    sub(
        "setinfo",
        4,
        Verb::SetInfo,
        "SETINFO LIB-NAME|LIB-VER <text>",
        "Says which library this connection is of.",
    ),
    sub("setname", 3, Verb::SetName, "SETNAME <name>", "Names this connection."),
];

pub(super) fn client(
    client: &mut ClientState,
    place: &Place<'_>,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Done {
    let Some(verb) = choose("client", SUBS, args, reply)? else { return Ok(()) };
    match verb {
        Verb::GetName if client.name.is_empty() => reply.null(),
        Verb::GetName => reply.bulk(&client.name),
        Verb::Id => reply.integer(client.id.cast_signed()),
        Verb::Info => {
            let mut text = String::new();
            describe(client, place, &mut text);
            reply.verbatim(b"txt", text.as_bytes());
        }
        Verb::Kill | Verb::List => unreachable!("commands of their own, see `spec::of`"),
        Verb::NoEvict | Verb::NoTouch => on_or_off(args.at(2), reply)?,
        Verb::ReplyOn => match args.at(2).to_ascii_lowercase().as_slice() {
            b"on" => reply.ok(),
            b"off" | b"skip" => {
                return Err(Error::fixed(
                    "ERR every command is answered: CLIENT REPLY takes ON only; the connection ends",
                ));
            }
            _ => return Err(Error::SYNTAX),
        },
        Verb::SetInfo => set_info(client, args, reply)?,
        Verb::SetName => {
            check_label(args.at(2), "Client names")?;
            client.name = args.at(2).to_vec();
            reply.ok();
        }
    }
    Ok(())
}

/// What the server is to a client: a shard's own port is a node of a cluster.
pub(super) fn mode_of(client: &ClientState) -> &'static str {
    if client.is_on_own_port { "cluster" } else { "standalone" }
}

/// True of `CLIENT REPLY OFF` and `SKIP`.
pub(super) fn wants_silence(args: &Args<'_>) -> bool {
    let is =
        |at, word: &[u8]| args.get(at).is_some_and(|arg: &[u8]| arg.eq_ignore_ascii_case(word));
    is(1, b"reply") && (is(2, b"off") || is(2, b"skip"))
}

/// No connection is ever given up for memory, and entries know no such finesse: both have no effect.
fn on_or_off(text: &[u8], reply: &mut Reply<'_>) -> Done {
    if !text.eq_ignore_ascii_case(b"on") && !text.eq_ignore_ascii_case(b"off") {
        return Err(Error::SYNTAX);
    }
    reply.ok();
    Ok(())
}

fn set_info(client: &mut ClientState, args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let (option, text) = (args.at(2).to_ascii_lowercase(), args.at(3));
    let place = match option.as_slice() {
        b"lib-name" => 0,
        b"lib-ver" => 1,
        _ => {
            let option = String::from_utf8_lossy(args.at(2));
            return Err(Error::of(format!("ERR Unrecognized option '{option}'")));
        }
    };
    check_label(text, ["lib-name", "lib-ver"][place])?;
    client.library[place] = text.to_vec();
    reply.ok();
    Ok(())
}

/// # Errors
/// If it has what would make a line of `CLIENT LIST` ambiguous.
fn check_label(text: &[u8], what: &str) -> Done {
    if text.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err(Error::of(format!("ERR {what} cannot contain spaces, newlines or special characters.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_the_same_or_not() {
        for (given, right, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("secret", "secret", true),
            ("secreT", "secret", false),
            ("secretsecret", "secret", false),
            ("sec", "secret", false),
        ] {
            assert_eq!(is_same(given.as_bytes(), right.as_bytes()), expected, "{given} {right}");
        }
    }

    #[test]
    fn labels_keep_lines_readable() {
        assert!(check_label(b"worker-1", "Client names").is_ok());
        for bad in ["a b", "a\n", "\u{e9}", "a\u{7f}"] {
            assert!(check_label(bad.as_bytes(), "Client names").is_err(), "{bad:?}");
        }
    }
}
