//! What clients may ask about the server, and about its process.

use crate::Failure;
use crate::cli::ServeArgs;
use crate::memory_limit;
use catena_kv::redis::server::{NODE_ID_DIGITS, ProcessFacts, Server, ServerConfig};
use signal_hook::consts::SIGTERM;
use std::fs::{File, read_to_string};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;
use std::path::Path;

/// What the command line says of it; it runs on so many shards, and takes so many clients each.
///
/// # Errors
/// If the password cannot be read.
pub fn facts(args: &ServeArgs, shards: u16, clients_max: u32) -> Result<Server, Failure> {
    let there = memory_bytes();
    let password = match &args.password_file {
        None => None,
        Some(path) => Some(password_in(path)?),
    };
    Ok(Server::new(ServerConfig {
        password,
        node_id: random_id(),
        announce: args.announce.clone(),
        memory_bytes_max: args.memory_max(shards, there),
        eviction: args.eviction,
        value_bytes_max: args.value_max.into(),
        clients_max: u64::from(clients_max) * u64::from(shards),
        client_bytes_max: usize::try_from(args.client_memory(shards, there))?,
        durability: args.dir.as_ref().map(|_| args.durability),
        process: process_facts,
        end: ask_to_end,
    }))
}

/// As whoever looks after the process does it.
fn ask_to_end() {
    if let Err(error) = signal_hook::low_level::raise(SIGTERM) {
        tracing::error!("SHUTDOWN has no effect: {error}");
    }
}

/// What the host has, or what a container leaves this process.
fn memory_bytes() -> u64 {
    let host_bytes = process_facts().host_bytes;
    memory_limit::of_this_process().map_or(host_bytes, |limit| limit.min(host_bytes))
}

/// The password in the first line of a file.
///
/// # Errors
/// If it cannot be read, or there is none.
pub fn password_in(path: &Path) -> Result<String, Failure> {
    let mut text = Vec::new();
    // Whatever it is, no more is looked at than what may be one, and the end of its line.
    let file = File::open(path).map(|file| file.take(PASSWORD_BYTES_MAX as u64 + 2));
    file.and_then(|mut file| file.read_to_end(&mut text))
        .map_err(|error| format!("cannot read the password in {}: {error}", path.display()))?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let problem = match std::str::from_utf8(line) {
        _ if line.is_empty() => "is empty",
        _ if line.contains(&0) => "has zero bytes in it, which nobody can type",
        _ if line.len() > PASSWORD_BYTES_MAX => "is longer than 4096 bytes",
        Ok(line) => return Ok(line.to_owned()),
        Err(_) => "is no text in UTF-8",
    };
    Err(format!(
        "{}: its first line, the password, {problem}; write one line of text into it",
        path.display()
    )
    .into())
}

/// The longest password in bytes: the native protocol has it with each request.
const PASSWORD_BYTES_MAX: usize = 4_096;

/// Digits that no other server has, from the numbers that the standard library draws for its hash maps.
fn random_id() -> String {
    let mut id = format!("{:016x}{:016x}{:016x}", random_bits(), random_bits(), random_bits());
    id.truncate(NODE_ID_DIGITS);
    id
}

/// Bits that no other process draws, in all likelihood.
pub fn random_bits() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Ticks of the processor's clock in `/proc`, a second. Source: `USER_HZ`, part of Linux' interface.
const TICKS: f64 = 100.0;

/// Bytes of a page as `/proc/self/statm` counts them, where pages are of the usual size.
const PAGE_BYTES: u64 = 4_096;

/// What can be read; zero where the system does not tell.
pub fn process_facts() -> ProcessFacts {
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
    fn a_password_is_a_line_of_text() {
        let path = std::env::temp_dir().join(format!("catena-password-{}", std::process::id()));
        let read = |content: &[u8]| {
            std::fs::write(&path, content).expect("a file can be written");
            password_in(&path).map_err(|error| error.to_string())
        };
        assert_eq!(read(b"secret\nand more\0"), Ok("secret".to_owned()));
        assert_eq!(read("señor x\r\n".as_bytes()), Ok("señor x".to_owned()));
        assert_eq!(read(&[b'x'; PASSWORD_BYTES_MAX]).map(|it| it.len()), Ok(PASSWORD_BYTES_MAX));
        let long = [&[b'x'; PASSWORD_BYTES_MAX + 1][..], b"\n"].concat();
        for (content, problem) in [
            (&b""[..], "is empty"),
            (b"\nsecret", "is empty"),
            (&[0; 3 << 20], "zero bytes"),
            (b"sec\0ret\n", "zero bytes"),
            (&long, "longer than 4096"),
            (&[b'x'; 1 << 20], "longer than 4096"),
            (b"\xff\xfe\n", "UTF-8"),
        ] {
            let told = read(content).expect_err(problem);
            assert!(told.contains(problem) && told.contains("catena-password-"), "{told}");
        }
        std::fs::remove_file(&path).expect("it is there");
        let told = password_in(&path).expect_err("it is gone").to_string();
        assert!(told.contains("cannot read the password"), "{told}");
    }

    #[test]
    fn the_system_tells() {
        let facts = process_facts();
        assert!(facts.resident_bytes > 100_000, "{facts:?}");
        assert!(facts.host_bytes > facts.resident_bytes, "{facts:?}");
    }
}
