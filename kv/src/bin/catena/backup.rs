//! `catena backup` and `catena restore`.

use crate::Failure;
use crate::cli::{BackupArgs, RestoreArgs};
use crate::facts::password_in;
use catena_kv::backup::{self, Backup, Frames, Made, Restored, ShardFile};
use catena_kv::log::{DirectoryId, segment};
use catena_kv::resp::{Protocol, Reply, Value};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A server that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes a backup of a server that serves.
///
/// # Errors
/// If the server cannot be reached, gives something else than a backup, or the directory cannot be written.
pub fn take(args: &BackupArgs) -> Result<(), Failure> {
    let password = args.password_file.as_deref().map(password_in).transpose()?;
    // What is made in vain goes again.
    let mut made = backup::make_directory(&args.directory)?;
    let taken_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let first = Connection::to(&args.from, password.as_deref())?;
    let shards = shards_of(first, &args.from)?;
    let mut files = Vec::new();
    let mut facts = None;
    for (shard, address) in shards.iter().enumerate() {
        let connection = Connection::to(address, password.as_deref())?;
        let (begun, file) = take_shard(connection, (&args.directory, &mut made), shard)?;
        say(&format!("shard {shard}: {} keys, {} bytes", file.keys, file.bytes));
        if facts.get_or_insert(begun) != &begun {
            return Err(format!("{address} is not of the server at {}", args.from).into());
        }
        files.push(file);
    }
    let facts = facts.ok_or("the server has no shard")?;
    if usize::try_from(facts.shards) != Ok(files.len()) {
        let known = files.len();
        return Err(format!("the server has {} shards and tells of {known}", facts.shards).into());
    }
    let keys: u64 = files.iter().map(|file| file.keys).sum();
    let document = Backup {
        version: backup::VERSION,
        taken_ms: u64::try_from(taken_ms).unwrap_or(u64::MAX),
        partitions: u16::try_from(facts.partitions)?,
        hash_seed: format!("{:016x}", facts.hash_seed),
        shard: files,
    };
    backup::complete(&args.directory, &document, made)?;
    say(&format!("{keys} keys are in {}", args.directory.display()));
    Ok(())
}

/// Tells whoever listens. That nobody does is no reason to end: what is told of is done.
fn say(line: &str) {
    let _unheard = writeln!(std::io::stdout(), "{line}");
}

/// Makes a data directory from a backup.
///
/// # Errors
/// If the backup is damaged, or the data directory is not empty or cannot be written.
pub fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let word = || RandomState::new().build_hasher().finish().to_le_bytes();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&word());
    id[8..].copy_from_slice(&word());
    let random = RandomState::new().build_hasher().finish();
    let restored = Restored { id: DirectoryId(id), random };
    let told = |shard, file: &ShardFile| say(&format!("shard {shard}: {} keys", file.keys));
    let keys = backup::restore(&args.backup, &args.dir, restored, told)?;
    let dir = args.dir.display();
    say(&format!("{keys} keys are in {dir}; serve them with: catena serve --dir {dir}"));
    Ok(())
}

/// What a server says of itself, for all of its shards alike.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Facts {
    shards: u64,
    partitions: u64,
    hash_seed: u64,
}

/// The addresses of the shards, in their order.
fn shards_of(mut connection: Connection, address: &str) -> Result<Vec<String>, Failure> {
    let Value::Array(ranges) = connection.ask(&[b"CLUSTER", b"SLOTS"])? else {
        return Err(format!("{address} is no Catena store").into());
    };
    let node = |range: Value| {
        let Value::Array(fields) = range else { return None };
        let (Some(Value::Integer(slot)), Some(Value::Array(node))) =
            (fields.first(), fields.get(2))
        else {
            return None;
        };
        let (Some(host), Some(Value::Integer(port))) = (node.first(), node.get(1)) else {
            return None;
        };
        let host = String::from_utf8_lossy(host.bytes().unwrap_or_default()).into_owned();
        // Without a name it is the host that was asked.
        let asked = connection.host.clone();
        Some((*slot, if host.is_empty() { asked } else { host }, *port))
    };
    let mut nodes: Vec<_> = ranges
        .into_iter()
        .map(|range| node(range).ok_or("the server's slots are none"))
        .collect::<Result<_, _>>()?;
    nodes.sort_unstable();
    let bracketed = |host: String| if host.contains(':') { format!("[{host}]") } else { host };
    let address = |(_, host, port)| format!("{}:{port}", bracketed(host));
    let mut addresses: Vec<String> = nodes.into_iter().map(address).collect();
    addresses.dedup();
    Ok(addresses)
}

fn take_shard(
    mut connection: Connection,
    (directory, made): (&Path, &mut Made),
    shard: usize,
) -> Result<(Facts, ShardFile), Failure> {
    let Value::Array(facts) = connection.ask(&[b"CATENA.BACKUP", b"BEGIN"])? else {
        return Err(format!("{} gives no backup", connection.address).into());
    };
    let fact = |name: &str| {
        let pairs = facts.chunks_exact(2);
        let mut named = pairs.filter(|pair| pair[0].bytes() == Some(name.as_bytes()));
        let text = named.next().and_then(|pair| std::str::from_utf8(pair[1].bytes()?).ok());
        text.and_then(|text| text.parse::<u64>().ok()).ok_or(format!("no {name} in the answer"))
    };
    if fact("shard")? != shard as u64 {
        return Err(format!("{} is not shard {shard}", connection.address).into());
    }
    let facts = Facts {
        shards: fact("shards")?,
        partitions: fact("partitions")?,
        hash_seed: fact("hash_seed")?,
    };
    let path = directory.join(segment::shard_name(u32::try_from(shard)?));
    let mut output = made.file(&path)?;
    let mut frames = Frames::default();
    while !frames.is_finished() {
        let piece = connection.ask(&[b"CATENA.BACKUP", b"NEXT"])?;
        let piece = piece.bytes().ok_or("the server gives something else than bytes")?;
        output.write_all(piece).map_err(backup::failed("write", &path))?;
        let taken = frames.take(piece, |_| Ok(()));
        let taken = taken.map_err(|(offset, error)| {
            format!("what {} gives is no backup, at byte {offset}: {error}", connection.address)
        })?;
        if taken? != piece.len() {
            return Err(format!("{} gives half a frame", connection.address).into());
        }
    }
    output.sync_all().map_err(backup::failed("sync", &path))?;
    Ok((facts, frames.file()))
}

/// A connection to one shard.
struct Connection {
    address: String,
    host: String,
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn to(address: &str, password: Option<&str>) -> Result<Self, Failure> {
        let told = |error: std::io::Error| format!("cannot reach {address}: {error}");
        let found: Vec<SocketAddr> = address.to_socket_addrs().map_err(told)?.collect();
        let stream = TcpStream::connect(&found[..]).map_err(told)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let host = stream.peer_addr()?.ip().to_string();
        let stream = BufReader::with_capacity(1 << 20, stream);
        let mut connection = Connection { address: address.to_owned(), host, stream };
        if let Some(password) = password {
            connection.ask(&[b"AUTH", password.as_bytes()])?;
        }
        Ok(connection)
    }

    fn ask(&mut self, command: &[&[u8]]) -> Result<Value, Failure> {
        let mut text = Vec::new();
        let mut writer = Reply::new(&mut text, Protocol::Resp2);
        writer.array(command.len());
        command.iter().for_each(|argument| writer.bulk(argument));
        let told = |error| format!("{}: {error}", self.address);
        self.stream.get_mut().write_all(&text).map_err(told)?;
        match Value::read(&mut self.stream).map_err(told)? {
            Value::Error(error) => Err(format!("{} refuses: {error}", self.address).into()),
            value => Ok(value),
        }
    }
}
