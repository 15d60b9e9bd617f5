//! `COMMAND`: what there is, for clients that route by it and for people who type.

use super::subcommand::{Sub, choose, sub};
use crate::command::Done;
use crate::command::error::Error;
use crate::command::glob::matches;
use crate::command::spec::{self, Everywhere, Here, Run, Spec};
use crate::resp::{Args, Reply};

#[derive(Clone, Copy)]
enum Verb {
    Count,
    Docs,
    GetKeys,
    Info,
    List,
}

const SUBS: &[Sub<Verb>] = &[
    sub("count", 2, Verb::Count, "COUNT", "Counts the commands."),
    sub("docs", -2, Verb::Docs, "DOCS [<name> ...]", "Tells what commands do: all, or these."),
    sub("getkeys", -4, Verb::GetKeys, "GETKEYS <command>", "Tells the keys in a whole command."),
    sub("info", -2, Verb::Info, "INFO [<name> ...]", "Tells how commands look: all, or these."),
    sub(
        "list",
        -2,
        Verb::List,
        "LIST [FILTERBY MODULE <name>|ACLCAT <category>|PATTERN <pattern>]",
        "Tells the names of commands.",
    ),
];

pub(super) fn run(args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    if args.len() == 1 {
        reply.array(spec::all().len());
        spec::all().for_each(|spec| describe(spec, reply));
        return Ok(());
    }
    let Some(verb) = choose("command", SUBS, args, reply)? else { return Ok(()) };
    match verb {
        Verb::Count => reply.integer(spec::all().len() as i64),
        Verb::Docs => docs(args, reply),
        Verb::GetKeys => get_keys(args, reply)?,
        Verb::Info => info(args, reply),
        Verb::List => list(args, reply)?,
    }
    Ok(())
}

fn docs(args: &Args<'_>, reply: &mut Reply<'_>) {
    let specs: Vec<&Spec> = match args.len() {
        2 => spec::all().collect(),
        _ => args.iter().skip(2).filter_map(find).collect(),
    };
    reply.map(specs.len());
    for spec in specs {
        reply.bulk(spec.name.as_bytes());
        reply.map(2);
        for (name, value) in [("summary", spec.summary), ("group", group(spec))] {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
    }
}

fn info(args: &Args<'_>, reply: &mut Reply<'_>) {
    if args.len() == 2 {
        reply.array(spec::all().len());
        return spec::all().for_each(|spec| describe(spec, reply));
    }
    reply.array(args.len() - 2);
    for name in args.iter().skip(2) {
        match find(name) {
            Some(spec) => describe(spec, reply),
            None => reply.null(),
        }
    }
}

/// A command, or a subcommand that is about a key.
fn find(name: &[u8]) -> Option<&'static Spec> {
    spec::find(name).or_else(|| spec::find_subcommand(name))
}

fn get_keys(args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let spec = spec::find(args.at(2)).ok_or(Error::fixed("ERR Invalid command specified"))?;
    let sub = args.get(3).and_then(|sub| spec::find_subcommand(&[args.at(2), b"|", sub].concat()));
    let spec = sub.unwrap_or(spec);
    if spec.keys.first == 0 {
        return Err(Error::fixed("ERR The command has no key arguments"));
    }
    let count = args.len() - 2;
    if spec.check_arity(count).is_err() {
        return Err(Error::fixed("ERR Invalid number of arguments specified for command"));
    }
    let places: Vec<usize> = spec.keys.among(count).collect();
    reply.array(places.len());
    places.into_iter().for_each(|place| reply.bulk(args.at(place + 2)));
    Ok(())
}

fn list(args: &Args<'_>, reply: &mut Reply<'_>) -> Done {
    let mut specs: Vec<&Spec> = spec::all().collect();
    match args.len() {
        2 => {}
        5 if args.at(2).eq_ignore_ascii_case(b"filterby") => {
            let wanted = args.at(4).to_ascii_lowercase();
            match args.at(3).to_ascii_lowercase().as_slice() {
                b"module" => specs.clear(),
                b"aclcat" => specs.retain(|spec| {
                    categories(spec).iter().any(|category| category.as_bytes()[1..] == *wanted)
                }),
                b"pattern" => specs.retain(|spec| matches(&wanted, spec.name.as_bytes())),
                _ => return Err(Error::SYNTAX),
            }
        }
        _ => return Err(Error::SYNTAX),
    }
    reply.array(specs.len());
    specs.into_iter().for_each(|spec| reply.bulk(spec.name.as_bytes()));
    Ok(())
}

/// A command in the ten fields of Redis 7.
fn describe(spec: &Spec, reply: &mut Reply<'_>) {
    reply.array(10);
    reply.bulk(spec.name.as_bytes());
    reply.integer(spec.arity.into());
    words(&flags(spec), reply);
    for place in [spec.keys.first, spec.keys.last, spec.keys.step] {
        reply.integer(if spec.keys.first == 0 { 0 } else { place.into() });
    }
    words(&categories(spec), reply);
    // No tips.
    reply.array(0);
    key_specs(spec, reply);
    let subcommands: Vec<&Spec> = spec::subcommands(spec).collect();
    reply.array(subcommands.len());
    subcommands.into_iter().for_each(|subcommand| describe(subcommand, reply));
}

fn words(words: &[&str], reply: &mut Reply<'_>) {
    reply.set(words.len());
    words.iter().for_each(|word| reply.simple(word));
}

fn flags(spec: &Spec) -> Vec<&'static str> {
    let is_about_keys = !matches!(spec.run, Run::Here(_));
    let all = [
        (spec.flags.writes, "write"),
        (is_about_keys && !spec.flags.writes, "readonly"),
        (spec.flags.needs_memory, "denyoom"),
        (spec.flags.admin, "admin"),
        (spec.flags.without_auth, "no_auth"),
        (!spec.flags.slow, "fast"),
    ];
    all.into_iter().filter_map(|(is_so, flag)| is_so.then_some(flag)).collect()
}

fn categories(spec: &Spec) -> Vec<&'static str> {
    let is_about_keys = !matches!(spec.run, Run::Here(_));
    let group = group(spec);
    let all = [
        (spec.flags.writes, "@write"),
        (is_about_keys && !spec.flags.writes, "@read"),
        (group == "generic", "@keyspace"),
        (group == "string", "@string"),
        (group == "connection", "@connection"),
        (spec.flags.admin, "@admin"),
        (spec.flags.admin, "@dangerous"),
        (spec.flags.slow, "@slow"),
        (!spec.flags.slow, "@fast"),
    ];
    all.into_iter().filter_map(|(is_so, category)| is_so.then_some(category)).collect()
}

/// What a command is about, in Redis' words.
fn group(spec: &Spec) -> &'static str {
    const ON_ANY_TYPE: [&str; 17] = [
        "copy",
        "del",
        "exists",
        "expire",
        "expireat",
        "expiretime",
        "persist",
        "pexpire",
        "pexpireat",
        "pexpiretime",
        "pttl",
        "rename",
        "renamenx",
        "touch",
        "ttl",
        "type",
        "unlink",
    ];
    match spec.run {
        Run::Keyed(_) if ON_ANY_TYPE.contains(&spec.name) => "generic",
        Run::Keyed(_) => "string",
        Run::Here(here) => match here {
            Here::Auth | Here::Client | Here::Echo | Here::Hello | Here::Ping => "connection",
            Here::Quit | Here::Reset | Here::Select => "connection",
            Here::Cluster | Here::ReadOnly | Here::ReadWrite => "cluster",
            Here::Object | Here::Wait => "generic",
            Here::Command | Here::Config | Here::Info | Here::LastSave | Here::Memory => "server",
            Here::Shutdown | Here::Slowlog | Here::Time => "server",
        },
        Run::Everywhere(Everywhere::BgSave | Everywhere::DbSize | Everywhere::FlushAll)
        | Run::Backup => "server",
        Run::Everywhere(_) => "generic",
    }
}

/// Where the keys are, as Redis tells it from version 7 on.
fn key_specs(spec: &Spec, reply: &mut Reply<'_>) {
    let keys = spec.keys;
    if keys.first == 0 {
        return reply.array(0);
    }
    // The last one is counted from the first one, or from the end.
    let last = if keys.last < 0 { keys.last } else { keys.last - keys.first };
    reply.array(1);
    reply.map(3);
    reply.bulk(b"flags");
    words(if spec.flags.writes { &["RW", "access", "update"] } else { &["RO", "access"] }, reply);
    search("begin_search", "index", &[("index", keys.first)], reply);
    search("find_keys", "range", &[("lastkey", last), ("keystep", keys.step), ("limit", 0)], reply);
}

fn search(name: &str, kind: &str, numbers: &[(&str, i8)], reply: &mut Reply<'_>) {
    reply.bulk(name.as_bytes());
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(numbers.len());
    for (name, number) in numbers {
        reply.bulk(name.as_bytes());
        reply.integer((*number).into());
    }
}
