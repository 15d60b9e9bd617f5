//! `INFO`: facts and figures of the whole server, under the names of Redis wherever they mean the same.

use super::Place;
use super::connection::mode_of;
use crate::redis::client::ClientState;
use crate::redis::server::{ProcessFacts, REDIS_VERSION, Totals};
use crate::resp::{Args, Reply};
use std::fmt::{Display, Write};

/// A section: its name, and what writes its lines.
type Section = (&'static str, fn(&mut Lines<'_>));

const SECTIONS: [Section; 9] = [
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
];

pub(super) fn run(client: &ClientState, place: &Place<'_>, args: &Args<'_>, reply: &mut Reply<'_>) {
    let names: Vec<Vec<u8>> = args.iter().skip(1).map(<[u8]>::to_ascii_lowercase).collect();
    let is_all = |name: &Vec<u8>| matches!(&**name, b"default" | b"all" | b"everything");
    let has_all = names.is_empty() || names.iter().any(is_all);
    let mut lines = Lines {
        text: String::new(),
        client,
        place,
        totals: place.server.totals(),
        process: (place.server.config.process)(),
    };
    for (name, write) in SECTIONS {
        if has_all || names.contains(&name.to_ascii_lowercase().into_bytes()) {
            let gap = if lines.text.is_empty() { "" } else { "\r\n" };
            write!(lines.text, "{gap}# {name}\r\n").expect(STRING);
            write(&mut lines);
        }
    }
    reply.verbatim(b"txt", lines.text.as_bytes());
}

const STRING: &str = "a string takes it all";

struct Lines<'a> {
    text: String,
    client: &'a ClientState,
    place: &'a Place<'a>,
    totals: Totals,
    process: ProcessFacts,
}

impl Lines<'_> {
    fn add(&mut self, name: &str, value: impl Display) {
        write!(self.text, "{name}:{value}\r\n").expect(STRING);
    }

    fn add_bytes(&mut self, name: &str, bytes: u64) {
        self.add(name, bytes);
        self.add(&format!("{name}_human"), human(bytes));
    }
}

fn server(lines: &mut Lines<'_>) {
    let Place { server, addresses, store, now_ms, .. } = *lines.place;
    let up_s = now_ms.saturating_sub(server.began_ms()) / 1_000;
    let port = match lines.client.is_on_own_port {
        true => addresses.shards.get(store.config().shard.index()).copied(),
        false => addresses.shared,
    };
    lines.add("redis_version", REDIS_VERSION);
    lines.add("catena_version", env!("CARGO_PKG_VERSION"));
    lines.add("redis_mode", mode_of(lines.client));
    lines.add("os", std::env::consts::OS);
    lines.add("arch_bits", usize::BITS);
    lines.add("process_id", std::process::id());
    lines.add("run_id", &server.config.node_id);
    lines.add("tcp_port", port.map_or(0, |address| address.port()));
    lines.add("server_time_usec", u128::from(now_ms) * 1_000);
    lines.add("uptime_in_seconds", up_s);
    lines.add("uptime_in_days", up_s / 86_400);
    lines.add("shards", store.config().shards);
    lines.add("shard", store.config().shard.0);
}

fn clients(lines: &mut Lines<'_>) {
    lines.add("connected_clients", lines.totals.clients);
    lines.add("maxclients", lines.place.server.config.clients_max);
    lines.add("blocked_clients", 0);
}

fn memory(lines: &mut Lines<'_>) {
    let host_bytes = lines.process.host_bytes;
    lines.add_bytes("used_memory", lines.totals.bytes_held);
    lines.add_bytes("used_memory_dataset", lines.totals.bytes_used);
    lines.add_bytes("used_memory_rss", lines.process.resident_bytes);
    lines.add_bytes("total_system_memory", host_bytes);
    lines.add_bytes("maxmemory", lines.place.server.config.memory_bytes_max);
    let policy = lines.place.server.config.eviction_name();
    lines.add("maxmemory_policy", policy);
    lines.add(
        "mem_fragmentation_ratio",
        ratio(lines.process.resident_bytes, lines.totals.bytes_held),
    );
}

fn persistence(lines: &mut Lines<'_>) {
    lines.add("loading", u8::from(!lines.place.is_serving));
    let Totals { checkpoints_running, checkpoints_failing, logs_hindered, .. } = lines.totals;
    let status = |is_bad| if is_bad { "err" } else { "ok" };
    lines.add("rdb_bgsave_in_progress", u8::from(checkpoints_running > 0));
    lines.add("rdb_last_save_time", lines.place.server.last_save_ms() / 1_000);
    lines.add("rdb_last_bgsave_status", status(checkpoints_failing > 0));
    lines.add("aof_enabled", u8::from(lines.place.server.config.is_durable()));
    lines.add("aof_last_write_status", status(logs_hindered > 0));
}

fn stats(lines: &mut Lines<'_>) {
    let totals = lines.totals;
    lines.add("total_connections_received", totals.accepted);
    lines.add("total_commands_processed", totals.commands);
    let Place { server, now_ms, .. } = *lines.place;
    let pace = server.commands_per_second(now_ms, totals.commands);
    lines.add("instantaneous_ops_per_sec", pace);
    lines.add("total_net_input_bytes", totals.bytes_in);
    lines.add("total_net_output_bytes", totals.bytes_out);
    lines.add("rejected_connections", totals.rejected);
    lines.add("expired_keys", totals.expired);
    lines.add("evicted_keys", totals.evicted);
    lines.add("keyspace_hits", totals.hits);
    lines.add("keyspace_misses", totals.misses);
    lines.add("total_error_replies", totals.errors);
}

fn replication(lines: &mut Lines<'_>) {
    lines.add("role", "master");
    lines.add("connected_slaves", 0);
    lines.add("master_replid", &lines.place.server.config.node_id);
    lines.add("master_repl_offset", 0);
}

fn cpu(lines: &mut Lines<'_>) {
    let ProcessFacts { cpu_system_s, cpu_user_s, .. } = lines.process;
    lines.add("used_cpu_sys", format_args!("{cpu_system_s:.6}"));
    lines.add("used_cpu_user", format_args!("{cpu_user_s:.6}"));
}

/// Said on the shared port too: a cluster client that begins there finds the nodes.
fn cluster(lines: &mut Lines<'_>) {
    lines.add("cluster_enabled", u8::from(!lines.place.addresses.shards.is_empty()));
}

/// Redis' `avg_ttl` is an estimate that nobody makes here: 0, as Redis says before its first one.
fn keyspace(lines: &mut Lines<'_>) {
    let Totals { keys, expiring, .. } = lines.totals;
    if keys > 0 {
        lines.add("db0", format_args!("keys={keys},expires={expiring},avg_ttl=0"));
    }
}

/// Bytes for people, as Redis writes them.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1_024 {
        return format!("{bytes}B");
    }
    let mut amount = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while amount >= 1_024.0 && unit + 1 < UNITS.len() {
        amount /= 1_024.0;
        unit += 1;
    }
    format!("{amount:.2}{}", UNITS[unit])
}

fn ratio(part: u64, of: u64) -> String {
    format!("{:.2}", if of == 0 { 0.0 } else { part as f64 / of as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        for (bytes, text) in [
            (0, "0B"),
            (1_023, "1023B"),
            (1_024, "1.00K"),
            (916_832, "895.34K"),
            (25_276_502_016, "23.54G"),
            (u64::MAX, "16384.00P"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
