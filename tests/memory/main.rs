//! What a connection costs in memory while nobody uses it.

#[path = "../../benches/paths/memory_driver.rs"]
mod memory_driver;

use catena_engine::Router;
use catena_engine::mailbox::mesh;
use catena_engine::rpc::connection::{Connection, Role};
use catena_engine::shard::{Shard, ShardConfig};
use catena_engine::time::Instant;
use catena_engine::wire::hello::ShardMap;
use memory_driver::MemoryDriver;
use std::sync::Arc;

/// The bound that the project has set itself.
const IDLE_CONNECTION_BYTES_MAX: usize = 4_096;

#[test]
fn an_idle_connection_holds_little() {
    const CONNECTIONS: u32 = 10_000;
    let mut driver = MemoryDriver::new(CONNECTIONS);
    let config = ShardConfig::default();
    let mailboxes = mesh(1, 64).pop().expect("one shard");
    let mut shard = Shard::new(config, &driver, mailboxes, Arc::default(), |_| Router::new());
    driver.accept_all();
    while shard.turn(&mut driver).busy {}
    assert_eq!(shard.connections(), CONNECTIONS as usize);
    let greeting =
        Connection::new(Role::Client, Arc::default(), &ShardMap::default(), Instant::ZERO)
            .poll_transmit()
            .expect("a client begins with its hello")
            .to_vec();
    driver.receive_all(&greeting);
    while shard.turn(&mut driver).busy {}
    let each = shard.connection_memory_bytes() / CONNECTIONS as usize;
    println!("{each} bytes for each of {CONNECTIONS} idle connections");
    assert!(each <= IDLE_CONNECTION_BYTES_MAX, "{each} bytes an idle connection");
}
