//! For tests: a command's flags against the table that documents them, so that neither drifts.
//!
//! A row of such a table begins with the flag, its value and its default; what follows is for people:
//!
//! ```text
//! | flag | value | default | what |
//! |---|---|---|---|
//! | `--attempts` | N | 3 | how often a request is sent at most |
//! | `--payload-crc` | | | asks for checksums over bodies |
//! ```

use clap::{Arg, Command};
use std::collections::BTreeMap;

/// By flag: its value's name, and its default.
type Flags = BTreeMap<String, (String, String)>;

/// What `command` and the tables of `markdown` do not agree about; nothing if all is well.
pub fn disagreements(command: &Command, markdown: &str) -> Vec<String> {
    let (flags, rows) = (flags_of(command), rows_of(markdown));
    let mut found = Vec::new();
    for (flag, known) in &flags {
        match rows.get(flag) {
            None => found.push(format!("{flag} is in --help, and in no table")),
            Some(row) if row != known => {
                found
                    .push(format!("{flag}: (value, default) is {known:?}, the table says {row:?}"));
            }
            Some(_) => {}
        }
    }
    let gone = rows.keys().filter(|flag| !flags.contains_key(*flag));
    found.extend(gone.map(|flag| format!("{flag} is in a table, and not in --help")));
    found
}

fn flags_of(command: &Command) -> Flags {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(|arg| Some((format!("--{}", arg.get_long()?), facts_of(arg)))).collect()
}

fn facts_of(arg: &Arg) -> (String, String) {
    if !arg.get_action().takes_values() {
        return <(String, String)>::default();
    }
    let names = arg.get_value_names().unwrap_or_default();
    let defaults: Vec<_> = arg.get_default_values().iter().map(|it| it.to_string_lossy()).collect();
    (names.join(" "), defaults.join(" "))
}

fn rows_of(markdown: &str) -> Flags {
    let rows = markdown.lines().filter_map(|line| line.strip_prefix("| `--"));
    rows.map(|row| {
        // A bar within a cell is written \|.
        let row = row.replace("\\|", "\u{0}");
        let mut cells = row.split('|').map(|cell| cell.trim().replace('\u{0}', "|"));
        let flag = cells.next().unwrap_or_default();
        let flag = flag.split('`').next().unwrap_or_default();
        let mut next = || cells.next().unwrap_or_default().replace('`', "");
        (format!("--{flag}"), (next(), next()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let command = Command::new("x")
            .arg(Arg::new("attempts").long("attempts").value_name("N").default_value("3"))
            .arg(Arg::new("list").long("list").value_name("A|B"))
            .arg(Arg::new("hidden").long("hidden").hide(true))
            .arg(Arg::new("crc").long("crc").action(clap::ArgAction::SetTrue));
        let table = "| `--attempts`, `-a` | N | `3` | x |\n| `--crc` | | | x |\n\
                     | `--list` | A\\|B | | x |\n";
        assert_eq!(disagreements(&command, table), Vec::<String>::new());
        let table = "| `--attempts` | N | 4 | x |\n| `--crc` | | | x |\n| `--new` | | | x |\n";
        let found = disagreements(&command, table);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("--attempts") && found[0].contains('4'), "{found:?}");
        assert!(found[1].contains("--list is in --help") && found[2].contains("--new is in a"));
    }
}
