//! `--config FILE`: a TOML file that says what flags say, under the same names.
//!
//! What stands there comes before the flags of the command line, so that these win. A name that is no flag,
//! and a value that the flag does not take, are refused with the file's name.

use crate::Failure;
use clap::{Arg, Command};
use std::ffi::OsString;
use std::path::Path;
use toml::{Table, Value};

/// The arguments of a process, with those of its configuration file in front of its own flags.
///
/// # Errors
/// If the file cannot be read, is no TOML, or has something that is no flag of the verb.
pub fn expand(command: &Command, args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let (Some(verb), Some(path)) = (args.get(1), config_of(&args)) else { return Ok(args) };
    let verb = verb.to_string_lossy();
    let Some(known) = command.find_subcommand(verb.as_ref()) else { return Ok(args) };
    if !known.get_arguments().any(|flag| flag.get_long() == Some("config")) {
        return Ok(args);
    }
    let path = Path::new(&path);
    let content = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let flags = flags_of(known, &content, &args);
    let flags = flags.map_err(|error| format!("{}: {error}", path.display()))?;
    let (program, own) = args.split_at(2);
    Ok([program, &flags[..], own].concat())
}

/// The value of `--config`, if it is there.
fn config_of(args: &[OsString]) -> Option<OsString> {
    for (at, arg) in args.iter().enumerate() {
        if arg == "--config" {
            return args.get(at + 1).cloned();
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    None
}

/// What the file says, as flags.
fn flags_of(known: &Command, content: &str, own: &[OsString]) -> Result<Vec<OsString>, String> {
    let table: Table = content.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut flags = Vec::new();
    for (name, value) in table {
        let flag = known.get_arguments().find(|flag| names_of(flag).any(|known| known == name));
        let flag = flag.filter(|_| name != "config").ok_or_else(|| {
            format!("{name}: there is no such setting; they are named like the flags of --help")
        })?;
        // What excludes it on the command line wins over it.
        let excludes = |one: &Arg, other: &Arg| {
            known.get_arg_conflicts_with(one).iter().any(|it| it.get_id() == other.get_id())
        };
        let mut excluding =
            known.get_arguments().filter(|other| excludes(flag, other) || excludes(other, flag));
        let is_given = |other: &str| {
            own.iter().filter_map(|arg| arg.to_str()).any(|arg| {
                arg.strip_prefix("--").is_some_and(|arg| arg.split('=').next() == Some(other))
            })
        };
        if excluding.any(|other| names_of(other).any(is_given)) {
            continue;
        }
        let text = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Boolean(true) if !flag.get_action().takes_values() => {
                flags.push(format!("--{name}").into());
                continue;
            }
            Value::Boolean(false) if !flag.get_action().takes_values() => continue,
            other => {
                let kind = other.type_str();
                return Err(format!("{name}: a {kind}; say it as text or as a whole number"));
            }
        };
        check(known, &name, &text)?;
        flags.push(format!("--{name}={text}").into());
    }
    Ok(flags)
}

/// The names of a flag, without the dashes.
fn names_of(flag: &Arg) -> impl Iterator<Item = &str> {
    flag.get_long().into_iter().chain(flag.get_visible_aliases().into_iter().flatten())
}

/// Sees whether the flag takes this value, so that the file is named if it does not.
fn check(known: &Command, name: &str, text: &str) -> Result<(), String> {
    let line = [known.get_name().to_owned(), format!("--{name}={text}")];
    match known.clone().try_get_matches_from(line) {
        Err(error) if error.kind() == clap::error::ErrorKind::ValueValidation => {
            let told = error.to_string();
            let first = told.lines().next().unwrap_or_default();
            Err(format!("{name}: {}", first.trim_start_matches("error: ")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::{CommandFactory, Parser};

    fn parse(file: &str, line: &str) -> Result<crate::cli::ServeArgs, String> {
        let path = std::env::temp_dir().join(format!(
            "catena-config-{}-{:?}.toml",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&path, file).expect("a file can be written");
        let config = format!("--config={}", path.display());
        let words = ["catena", "serve", &config].into_iter().chain(line.split_whitespace());
        let args = expand(&Cli::command(), words.map(OsString::from).collect());
        std::fs::remove_file(&path).expect("it is there");
        let args = args.map_err(|error| error.to_string())?;
        let cli = Cli::try_parse_from(args).map_err(|error| error.to_string())?;
        let Verb::Serve(args) = cli.verb else { panic!("it is the line of serve") };
        Ok(*args)
    }

    #[test]
    fn the_file_says_what_flags_say_and_flags_win() {
        let file = "listen = \"7001\"\nshards = 2\ndurability = \"batch\"\n";
        let args = parse(file, "--listen 7002").expect("all of them are flags");
        assert_eq!((args.listen.port(), args.shards.shards), (7002, Some(2)));
        let args = parse("cpus = \"0\"\n", "--shards 1").expect("the line wins");
        assert_eq!(args.shards.shards, Some(1));
        let args = parse("cores = \"0\"\n", "").expect("it is an alias of --cpus");
        assert_eq!(args.shards.cpus, Some(catena_engine::server::Cores::List(vec![0])));
        let args = parse("shards = 2\n", "--cores 0").expect("the line wins");
        assert_eq!(args.shards.shards, None);
        let args = parse("cores = \"0\"\n", "--shards 1").expect("the line wins");
        assert_eq!(args.shards.shards, Some(1));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        for (file, named) in [
            ("listne = 1\n", "listne: there is no such setting"),
            ("shards = 0\n", "shards: invalid value"),
            ("durability = \"never\"\n", "durability: invalid value"),
            ("shards = 1.5\n", "shards: a float"),
            ("batch-interval = 20\n", "say 20ms or 20s"),
            ("value-max = 0\n", "say 1 at least"),
            ("shards =\n", "expected"),
            ("config = \"x\"\n", "config: there is no such setting"),
        ] {
            let error = parse(file, "").expect_err(file);
            assert!(error.contains(named), "{file}: {error}");
            assert!(error.contains("catena-config-"), "{file}: {error}");
        }
    }
}
