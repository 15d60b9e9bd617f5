//! Flags that are each right and together cannot be meant.
//!
//! Who says something that has no effect, or none but harm, hears so before anything starts: which flag, why,
//! and what to say instead. What nobody has said is never complained of.

use crate::cli::{ProxyArgs, ServeArgs};
use catena_cli::units::size_text;
use catena_kv::store::Durability;
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::net::SocketAddr;

/// The least memory for the keys of a shard in bytes. Without a key its part of 1,024 partitions takes some
/// 200 KiB, and that for keys is taken in pieces, of each size of a key.
const MEMORY_BYTES_MIN_OF_SHARD: u64 = 1 << 20;

/// Which flags were said, on the line or in a file, as opposed to their defaults.
#[derive(Debug)]
pub struct Given<'a>(&'a ArgMatches);

impl<'a> Given<'a> {
    /// Those of the verb in `matches`.
    pub fn of(matches: &'a ArgMatches) -> Self {
        Given(matches.subcommand().expect("there is no line without a verb").1)
    }

    /// Whether `flag` was said.
    ///
    /// # Panics
    /// If there is no such flag.
    pub fn has(&self, flag: &str) -> bool {
        // The derived names of arguments are those of the fields.
        let field = flag.trim_start_matches('-').replace('-', "_");
        self.0.value_source(&field) == Some(ValueSource::CommandLine)
    }
}

/// Of `catena serve`.
///
/// # Errors
/// What cannot be meant.
pub fn serve(args: &ServeArgs, given: &Given<'_>) -> Result<(), String> {
    needs_directory(args, given)?;
    if given.has("--batch-interval") && args.durability != Durability::Batch {
        return Err(format!(
            "--batch-interval with --durability {}: writes gather for a time only with batch; say \
             --durability batch, or leave the interval out",
            args.durability
        ));
    }
    has_client_memory(args)?;
    // A number of shards that there cannot be is refused when they are to start.
    let Ok(shards) = args.shards.cores().shard_count() else { return Ok(()) };
    has_memory(args, shards)?;
    let ports = ports_of(args, shards)?;
    differ(&ports)
}

/// Of `catena proxy`.
///
/// # Errors
/// What cannot be meant.
pub fn proxy(args: &ProxyArgs) -> Result<(), String> {
    let mut ports = vec![Ports::one("--listen", args.listen)];
    ports.extend(args.metrics.map(|address| Ports::one("--metrics", address)));
    differ(&ports)
}

fn needs_directory(args: &ServeArgs, given: &Given<'_>) -> Result<(), String> {
    let about_disk = ["--durability", "--batch-interval", "--log-segment", "--checkpoint-log"];
    match about_disk.into_iter().find(|flag| given.has(flag)) {
        Some(flag) if args.dir.is_none() => Err(format!(
            "{flag} without --dir: nothing is written to a disk; say where with --dir DIR, or leave {flag} \
             out"
        )),
        _ => Ok(()),
    }
}

fn has_memory(args: &ServeArgs, shards: u16) -> Result<(), String> {
    let least = MEMORY_BYTES_MIN_OF_SHARD * u64::from(shards);
    match args.memory_max {
        Some(bytes) if bytes < least => Err(format!(
            "--memory-max of {}: a store on {shards} shards takes about that much without any key, so that \
             writes would be refused; say {} at least, or leave it out for three quarters of the host's",
            size_text(bytes),
            size_text(least)
        )),
        _ => Ok(()),
    }
}

fn has_client_memory(args: &ServeArgs) -> Result<(), String> {
    let least = args.client_memory_min();
    match args.client_memory {
        Some(bytes) if bytes < least => Err(format!(
            "--client-memory of {}: a client that sends or reads a value of --value-max would be cut off; \
             say {} at least, or a smaller --value-max",
            size_text(bytes),
            size_text(least)
        )),
        _ => Ok(()),
    }
}

/// Ports that a flag asks for.
#[derive(Clone, Copy, Debug)]
struct Ports {
    flag: &'static str,
    first: SocketAddr,
    last: u16,
}

impl Ports {
    fn one(flag: &'static str, address: SocketAddr) -> Self {
        Ports { flag, first: address, last: address.port() }
    }

    /// A port that both take. One that the system picks is nobody else's.
    fn both(&self, other: &Ports) -> Option<u16> {
        let (ip, other_ip) = (self.first.ip(), other.first.ip());
        let meet = ip == other_ip || ip.is_unspecified() || other_ip.is_unspecified();
        let port = self.first.port().max(other.first.port());
        let is_picked = self.first.port() == 0 || other.first.port() == 0;
        (meet && !is_picked && port <= self.last.min(other.last)).then_some(port)
    }
}

fn ports_of(args: &ServeArgs, shards: u16) -> Result<Vec<Ports>, String> {
    let mut ports = vec![Ports::one("--listen", args.listen)];
    ports.extend(args.rpc_listen.map(|address| Ports::one("--rpc-listen", address)));
    ports.extend(args.admin.map(|address| Ports::one("--admin", address)));
    if let Some(first) = args.shard_ports.filter(|port| *port > 0) {
        let last = first.checked_add(shards - 1).ok_or_else(|| {
            format!(
                "--shard-ports {first}: {shards} shards take a port each from there on, and the last one is \
                 65535; say {} at most",
                u16::MAX - (shards - 1)
            )
        })?;
        let first = SocketAddr::new(args.listen.ip(), first);
        ports.push(Ports { flag: "--shard-ports", first, last });
    }
    Ok(ports)
}

fn differ(ports: &[Ports]) -> Result<(), String> {
    for (at, later) in ports.iter().enumerate() {
        let meets = |earlier: &Ports| Some((earlier.flag, earlier.both(later)?));
        if let Some((flag, port)) = ports[..at].iter().find_map(meets) {
            let range = match later.last {
                last if last > later.first.port() => format!("-{last}"),
                _ => String::new(),
            };
            return Err(format!(
                "{} {}{range}: port {port} is that of {flag} already; choose another one",
                later.flag,
                later.first.port()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::{CommandFactory, FromArgMatches};

    fn check(line: &str) -> Result<(), String> {
        let words = ["catena"].into_iter().chain(line.split_whitespace());
        let matches = Cli::command().try_get_matches_from(words).expect(line);
        match Cli::from_arg_matches(&matches).expect(line).verb {
            Verb::Serve(args) => serve(&args, &Given::of(&matches)),
            Verb::Proxy(args) => proxy(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_and_what_can_be_meant_are_taken() {
        for line in [
            "serve",
            "serve --shards 1 --memory-max 1m --partitions 64",
            "serve --shards 1 --shard-ports 65535",
            "serve --shards 2 --listen 65000",
            "serve --value-max 512m --client-memory 1g",
            "serve --shard-ports 7380 --admin 9100 --rpc-listen 7378",
            "serve --listen 127.0.0.1:7 --admin 127.0.0.2:7",
            "serve --listen 0 --rpc-listen 0 --admin 0",
            "serve --dir d --durability batch --batch-interval 5ms --log-segment 1m --checkpoint-log 4m",
            "serve --dir d --durability memory --checkpoint-log 4m",
            "proxy --upstream 127.0.0.1:1 --metrics 9100",
        ] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_flag_the_reason_and_a_way_out() {
        for (line, said) in [
            (
                "serve --durability batch",
                "--durability without --dir: nothing is written to a disk; say",
            ),
            ("serve --durability memory", "--durability without --dir"),
            ("serve --durability sync", "--durability without --dir"),
            ("serve --batch-interval 20ms", "--batch-interval without --dir"),
            ("serve --log-segment 1m", "--log-segment without --dir"),
            ("serve --checkpoint-log 1m", "leave --checkpoint-log out"),
            (
                "serve --dir d --batch-interval 20ms",
                "--durability sync: writes gather for a time only with",
            ),
            (
                "serve --dir d --durability memory --batch-interval 0",
                "--durability memory: writes gather",
            ),
            ("serve --client-memory 100m", "--client-memory of 100 MiB: a client"),
            ("serve --shards 1 --memory-max 0", "--memory-max of 0 bytes"),
            ("serve --shards 1 --memory-max 100", "writes would be refused; say 1 MiB at least"),
            ("serve --shards 1 --memory-max 1023k", "--memory-max of 1,023 KiB"),
            (
                "serve --listen 45 --rpc-listen 45",
                "--rpc-listen 45: port 45 is that of --listen already; ch",
            ),
            ("serve --admin 7379", "--admin 7379: port 7379 is that of --listen"),
            ("serve --listen 0.0.0.0:45 --admin 45", "--admin 45: port 45 is that of --listen"),
            ("serve --admin 9 --rpc-listen 9", "--admin 9: port 9 is that of --rpc-listen"),
            (
                "serve --shards 1 --shard-ports 7379",
                "--shard-ports 7379: port 7379 is that of --listen",
            ),
            (
                "proxy --upstream 127.0.0.1:1 --metrics 7400",
                "--metrics 7400: port 7400 is that of --listen",
            ),
        ] {
            let told = check(line).expect_err(line);
            assert!(told.contains(said), "{line}: {told}");
        }
    }

    #[test]
    fn the_ports_of_many_shards_are_a_range() {
        let mut args = args_of("serve --shard-ports 65534 --admin 9100");
        assert!(ports_of(&args, 2).is_ok());
        let told = ports_of(&args, 3).expect_err("there is no port 65536");
        assert!(
            told.contains("--shard-ports 65534: 3 shards") && told.contains("say 65533"),
            "{told}"
        );
        args.shard_ports = Some(9_098);
        differ(&ports_of(&args, 2).expect("they are there")).expect("9099 is the last");
        let told = differ(&ports_of(&args, 3).expect("they are there")).expect_err("9100 is taken");
        assert!(told.contains("--shard-ports 9098-9100: port 9100 is that of --admin"), "{told}");
    }

    #[test]
    fn an_empty_store_fits_into_the_least_memory() {
        use catena_engine::shard_index::ShardIndex;
        use catena_kv::slot::Partitions;
        use catena_kv::store::{Store, StoreConfig};
        let most = Partitions::new(1_024).expect("it is the largest number");
        let store = Store::in_memory(StoreConfig {
            partitions: most,
            shard: ShardIndex(0),
            shards: 1,
            hash_seed: 0,
            epoch: 1,
            value_bytes_max: 1,
            memory_bytes_max: MEMORY_BYTES_MIN_OF_SHARD,
            eviction: catena_kv::evict::Eviction::None,
        });
        assert!(store.bytes_used() < MEMORY_BYTES_MIN_OF_SHARD / 2, "{}", store.bytes_used());
    }

    fn args_of(line: &str) -> ServeArgs {
        let words = ["catena"].into_iter().chain(line.split_whitespace());
        match <Cli as clap::Parser>::try_parse_from(words).expect(line).verb {
            Verb::Serve(args) => *args,
            other => panic!("{other:?}"),
        }
    }
}
