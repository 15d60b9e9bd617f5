//! The real process, and its client in plain async code.

use catena_engine::shard_index::ShardIndex;
use catena_engine::{Cores, Server};
use catena_kv::client::{Client, Config, Error};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// A process that ends with its test.
struct Store {
    child: Child,
    address: SocketAddr,
}

impl Store {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
        command.args(["serve", "--listen", "0", "--rpc-listen", "0", "--shards", "2"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let address = lines.map_while(Result::ok).find_map(|line| {
            let (_, said) = line.split_once("listening on ")?;
            said.strip_suffix(" (native protocol)")?.parse().ok()
        });
        Store { address: address.expect("it says where it listens"), child }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.child.kill().expect("it runs until then");
        self.child.wait().expect("it was killed");
    }
}

#[test]
fn a_client_writes_and_reads_on_all_shards() {
    let store = Store::start();
    let engine = Server::builder().cores(Cores::Unpinned(1)).start().expect("it starts");
    let (address, handle) = (store.address, engine.handle());
    let work = handle.run(ShardIndex(0), move |local| async move {
        let store = Client::new(&local, address, Config::default());
        for number in 0..200_i64 {
            let key = format!("key-{number}").into_bytes();
            let version = store.put(&key, b"17").await?;
            assert_eq!(store.add(&key, number).await?, 17 + number);
            let stale = store.put_if_version(&key, b"0", version).await;
            assert!(matches!(stale, Err(Error::ConditionFailed { .. })), "{stale:?}");
            let found = store.get(&key).await?.expect("it is there");
            assert_eq!(&found.bytes[..], (17 + number).to_string().as_bytes());
        }
        assert!(store.delete(b"key-0").await?);
        assert!(!store.delete(b"key-0").await?);
        assert_eq!(store.get(b"key-0").await?, None);
        Ok::<_, Error>(())
    });
    futures_executor::block_on(work).expect("the shard lives").expect("the store serves");
    engine.stop().expect("no shard failed");
}
