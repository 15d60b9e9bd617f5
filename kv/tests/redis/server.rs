//! Servers as processes of their own, which end with their test.

use crate::peer::Peer;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What must happen some time happens before this.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `catena serve`.
pub struct Catena {
    process: Process,
    pub address: SocketAddr,
}

impl Catena {
    /// On so many shards.
    pub fn start(shards: u16) -> Self {
        Self::start_with(shards, &[])
    }

    pub fn start_with(shards: u16, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
        // Any spare processor time belongs to the other tests.
        command.args(["serve", "--listen", "127.0.0.1:0", "--poll", "never", "--log", "off"]);
        command.args(["--shards", &shards.to_string()]).args(args);
        let mut process = Process::start(&mut command, Stdio::piped());
        let out = process.0.stdout.take().expect("it is piped");
        let mut lines = Vec::new();
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("listening on ") {
                let address = rest.split_ascii_whitespace().next().unwrap_or_default();
                let address = address.parse().expect("an address");
                let catena = Catena { process, address };
                catena.wait_until_it_serves();
                return catena;
            }
            lines.push(line);
        }
        panic!("it ended before it listened: {lines:?}");
    }

    /// It listens before it has taken in what is on the disk.
    fn wait_until_it_serves(&self) {
        let give_up = Instant::now() + PATIENCE;
        while self.connect().ask("DBSIZE").starts_with("-LOADING") {
            assert!(Instant::now() < give_up, "it does not begin to serve");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn connect(&self) -> Peer {
        Peer::new(self.socket())
    }

    pub fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    /// Memory in bytes that is there and not just reserved.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.process.0.id());
        let statm = std::fs::read_to_string(path).expect("it runs");
        let pages = statm.split_ascii_whitespace().nth(1).expect("the second field");
        pages.parse::<u64>().expect("a number") * 4_096
    }
}

/// `redis-server`, on a socket in a directory of its own: no port that somebody else might take.
pub struct RedisServer {
    _process: Process,
    directory: PathBuf,
}

impl RedisServer {
    /// `None`, and a line about it, where there is no such program.
    pub fn start() -> Option<Self> {
        let program = program("redis-server")?;
        let directory = temporary_directory("redis");
        let mut command = Command::new(program);
        command
            .args([
                "--port",
                "0",
                "--unixsocket",
                "socket",
                "--save",
                "",
                "--databases",
                "1",
                "--dir",
            ])
            .arg(&directory);
        command.args(["--appendonly", "no", "--daemonize", "no"]).current_dir(&directory);
        let process = Process::start(&mut command, Stdio::null());
        let server = RedisServer { _process: process, directory };
        let give_up = Instant::now() + PATIENCE;
        while UnixStream::connect(server.path()).is_err() {
            assert!(Instant::now() < give_up, "redis-server does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(server)
    }

    pub fn connect(&self) -> Peer {
        let socket = UnixStream::connect(self.path()).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Peer::new(socket)
    }

    fn path(&self) -> PathBuf {
        self.directory.join("socket")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _left_to_the_system = std::fs::remove_dir_all(&self.directory);
    }
}

/// Where a program is. `None`, and a line about it, if it is not installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|p| p.is_file());
    if found.is_none() {
        println!("skipped: {name} is not installed");
    }
    found
}

/// A directory that nobody else uses.
pub fn temporary_directory(name: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("catena-test-{name}-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).expect("a place for temporary files");
    directory
}

struct Process(Child);

impl Process {
    fn start(command: &mut Command, stdout: Stdio) -> Self {
        let command = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null());
        Process(command.spawn().expect("the program can be started"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Without effect on one that has ended.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}
