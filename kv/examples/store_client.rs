//! A client of the store in Rust: versions, conditions, and adds that count once.
//!
//!     cargo run --release --bin catena -- serve --rpc-listen 7400 &
//!     cargo run --release -p catena-kv --example store_client -- 127.0.0.1:7400
//!
//! A program of its own needs three lines of dependencies: `catena-engine`, `catena-kv`, and whatever runs
//! its futures; here that is `futures-executor`.

use catena_engine::shard_index::ShardIndex;
use catena_engine::{Cores, Local, Server};
use catena_kv::client::{Client, Config, Error};
use std::net::SocketAddr;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let address: SocketAddr = address.parse()?;
    // An engine that listens nowhere: connections need a shard to live on. Clients are a shard's own.
    let engine = Server::builder().cores(Cores::Unpinned(1)).start()?;
    let handle = engine.handle();
    let told = handle.run(ShardIndex(0), async move |local| transfer(&local, address).await);
    futures_executor::block_on(told)??;
    engine.drain()?;
    Ok(())
}

async fn transfer(local: &Local, address: SocketAddr) -> Result<(), Error> {
    let store = Client::new(local, address, Config::default());
    // The part in braces decides where a key lies, so that these two are together.
    store.put(b"{ada}name", b"Ada").await?;
    // Sent again until it is answered, and carried out once.
    let balance = store.add(b"{ada}balance", 100).await?;
    println!("balance {balance}");

    let Some(found) = store.get(b"{ada}name").await? else { return Ok(()) };
    println!("name {}, version {}", String::from_utf8_lossy(&found.bytes), found.version);
    // Only if nobody has changed it since.
    let changed = store.put_if_version(b"{ada}name", b"Ada Lovelace", found.version).await?;
    println!("changed, version {changed}");
    match store.put_if_version(b"{ada}name", b"Countess", found.version).await {
        Err(Error::ConditionFailed { version, .. }) => {
            println!("not changed again: it is at version {version} by now");
            Ok(())
        }
        other => other.map(drop),
    }
}
