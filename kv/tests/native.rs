//! The real process, and its client in plain async code.

use catena_engine::shard_index::ShardIndex;
use catena_engine::{Cores, Server};
use catena_kv::client::{Client, Config, Error};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
        store.put_for(b"key-1", b"short", Duration::from_nanos(3_600_000_000_000 - 1)).await?;
        let expires_at = store.get(b"key-1").await?.expect("it is there").expires_at;
        let left = expires_at.expect("it has an expiry").checked_sub(unix_ms());
        // The store's clock is this machine's, and may have been read in the millisecond before.
        assert!(left.is_some_and(|left| (3_000_000..=3_600_001).contains(&left)), "{left:?}");
        store.put(b"key-1", b"long").await?;
        assert_eq!(store.get(b"key-1").await?.expect("it is there").expires_at, None);
        assert!(store.delete(b"key-0").await?);
        assert!(!store.delete(b"key-0").await?);
        assert_eq!(store.get(b"key-0").await?, None);
        Ok::<_, Error>(())
    });
    futures_executor::block_on(work).expect("the shard lives").expect("the store serves");
    engine.stop().expect("no shard failed");
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later");
    u64::try_from(since.as_millis()).expect("it is not that late")
}
