//! The real process, and its client in plain async code.

use catena_engine::shard_index::ShardIndex;
use catena_engine::{Cores, Server};
use catena_kv::client::{Client, Config, Error};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A process that ends with its test.
struct Store {
    child: Child,
    address: SocketAddr,
    /// Where it speaks the Redis protocol.
    redis: SocketAddr,
}

impl Store {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
        command.args(["serve", "--listen", "0", "--rpc-listen", "0"]).args(args);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut address = None;
        let redis = lines.map_while(Result::ok).find_map(|line| {
            let (_, said) = line.split_once("listening on ")?;
            if let Some(native) = said.strip_suffix(" (native protocol)") {
                address = native.parse().ok();
                return None;
            }
            said.strip_suffix(" (Redis protocol)")?.parse().ok()
        });
        const SAYS_SO: &str = "it says where it listens";
        Store { address: address.expect(SAYS_SO), redis: redis.expect(SAYS_SO), child }
    }

    /// Bytes that its keys take.
    fn bytes_used(&self) -> u64 {
        let mut socket = TcpStream::connect(self.redis).expect("it listens");
        socket.write_all(b"INFO memory\r\nQUIT\r\n").expect("it reads");
        let mut said = String::new();
        socket.read_to_string(&mut said).expect("it answers");
        let used = said.lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
        used.and_then(|bytes| bytes.parse().ok()).unwrap_or_else(|| panic!("{said}"))
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
    let store = Store::start(&["--shards", "2"]);
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

/// Who writes waits while keys are given up: the client's repetitions do that.
#[test]
fn large_values_after_small_ones_keep_the_bound_of_memory() {
    const BOUND: u64 = 8 << 20;
    const VALUE: usize = 512 << 10;
    let args = ["--shards", "1", "--memory-max", "8m", "--eviction", "lru"];
    let store = Store::start(&args);
    let engine = Server::builder().cores(Cores::Unpinned(1)).start().expect("it starts");
    let (address, handle) = (store.address, engine.handle());
    let write = |count: u32, length: usize| {
        let work = handle.run(ShardIndex(0), move |local| async move {
            let store = Client::new(&local, address, Config::default());
            for number in 0..count {
                store.put(format!("key-{length}-{number}").as_bytes(), &vec![7; length]).await?;
            }
            Ok::<_, Error>(())
        });
        futures_executor::block_on(work).expect("the shard lives").expect("the store serves");
    };
    write(60_000, 10);
    for _ in 0..50 {
        write(1, VALUE - 1);
        write(1, VALUE);
        let used = store.bytes_used();
        assert!(used <= BOUND + BOUND / 16 + 2 * VALUE as u64, "{used}");
    }
    engine.stop().expect("no shard failed");
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later");
    u64::try_from(since.as_millis()).expect("it is not that late")
}
