//! What clients may ask about the server, and about its process.

use crate::Failure;
use crate::cli::ServeArgs;
use catena_kv::redis::server::{NODE_ID_DIGITS, ProcessFacts, Server, ServerConfig};
use std::fs::read_to_string;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

/// What the command line says of it.
///
/// # Errors
/// If the password cannot be read.
pub fn facts(args: &ServeArgs) -> Result<Server, Failure> {
    let password = match &args.password_file {
        None => None,
        Some(path) => Some(password_in(path)?),
    };
    Ok(Server::new(ServerConfig {
        password,
        node_id: random_id(),
        announce: args.announce.clone(),
        memory_bytes_max: args.memory_max.unwrap_or(process_facts().host_bytes / 4 * 3),
        eviction: args.eviction,
        value_bytes_max: args.value_max.into(),
        clients_max: args.max_connections.into(),
        durability: args.dir.as_ref().map(|_| args.durability),
        process: process_facts,
    }))
}

/// The password in the first line of a file.
///
/// # Errors
/// If it cannot be read, or there is none.
pub fn password_in(path: &Path) -> Result<String, Failure> {
    let text = read_to_string(path)
        .map_err(|error| format!("cannot read the password in {}: {error}", path.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("{}: its first line, the password, is empty", path.display()).into()),
    }
}

/// Digits that no other server has, from the numbers that the standard library draws for its hash maps.
fn random_id() -> String {
    let word = || RandomState::new().build_hasher().finish();
    let mut id = format!("{:016x}{:016x}{:016x}", word(), word(), word());
    id.truncate(NODE_ID_DIGITS);
    id
}

/// Ticks of the processor's clock in `/proc`, a second. Source: `USER_HZ`, part of Linux' interface.
const TICKS: f64 = 100.0;

/// Bytes of a page as `/proc/self/statm` counts them, where pages are of the usual size.
const PAGE_BYTES: u64 = 4_096;

/// What can be read; zero where the system does not tell.
fn process_facts() -> ProcessFacts {
    let read = |path: &str| read_to_string(path).unwrap_or_default();
    // Behind the name, which may hold anything, the third field comes first.
    let stat = read("/proc/self/stat");
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |place: usize| number(fields.split_ascii_whitespace().nth(place)) as f64 / TICKS;
    let statm = read("/proc/self/statm");
    let meminfo = read("/proc/meminfo");
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    ProcessFacts {
        cpu_user_s: ticks(11),
        cpu_system_s: ticks(12),
        resident_bytes: number(statm.split_ascii_whitespace().nth(1)) * PAGE_BYTES,
        host_bytes: number(total.and_then(|line| line.split_ascii_whitespace().next())) * 1_024,
    }
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells() {
        let facts = process_facts();
        assert!(facts.resident_bytes > 100_000, "{facts:?}");
        assert!(facts.host_bytes > facts.resident_bytes, "{facts:?}");
    }
}
