//! Commands that are many: `CLIENT LIST`, `CONFIG GET`.

use crate::command::error::Error;
use crate::resp::{Args, Reply};

/// One of them.
pub(super) struct Sub<V: 'static> {
    /// In lower case.
    name: &'static str,
    /// As a command's, whose own name counts too.
    arity: i8,
    verb: V,
    /// How it is written.
    usage: &'static str,
    /// What it does, in a line.
    summary: &'static str,
}

/// A line of a command's table.
pub(super) const fn sub<V: Copy>(
    name: &'static str,
    arity: i8,
    verb: V,
    usage: &'static str,
    summary: &'static str,
) -> Sub<V> {
    Sub { name, arity, verb, usage, summary }
}

/// Which one is asked for. `None`: `HELP`, which is answered.
///
/// # Errors
/// If there is no such one, or it has too few or too many arguments.
pub(super) fn choose<V: Copy>(
    command: &str,
    subs: &[Sub<V>],
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<Option<V>, Error> {
    let name = args.at(1);
    if name.eq_ignore_ascii_case(b"help") {
        if args.len() != 2 {
            return Err(Error::arity(&format!("{command}|help")));
        }
        help(command, subs, reply);
        return Ok(None);
    }
    let is_it = |sub: &&Sub<V>| name.eq_ignore_ascii_case(sub.name.as_bytes());
    let Some(sub) = subs.iter().find(is_it) else {
        return Err(Error::subcommand(command, name));
    };
    let wanted = usize::from(sub.arity.unsigned_abs());
    let fits = if sub.arity < 0 { args.len() >= wanted } else { args.len() == wanted };
    if fits { Ok(Some(sub.verb)) } else { Err(Error::arity(&format!("{command}|{}", sub.name))) }
}

/// Lines of text, as Redis answers.
fn help<V>(command: &str, subs: &[Sub<V>], reply: &mut Reply<'_>) {
    let name = command.to_ascii_uppercase();
    reply.array(2 * subs.len() + 3);
    reply.simple(&format!("{name} <subcommand> [<argument> ...]. The subcommands:"));
    for sub in subs {
        reply.simple(sub.usage);
        reply.simple(&format!("    {}", sub.summary));
    }
    reply.simple("HELP");
    reply.simple("    Tells this.");
}
