//! Servers as processes of their own, which end with their test.

use crate::peer::Peer;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
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
    /// Where its pages are, if it was told to show them.
    admin: Option<SocketAddr>,
    /// What it says to who started it, in a file of its own.
    stderr: Said,
}

/// How a server has ended that does not serve.
#[derive(Debug)]
pub struct Ended {
    /// As the system gives it; `None`: by a signal.
    pub code: Option<i32>,
    /// What it has said.
    pub stderr: String,
}

impl Catena {
    /// On so many shards.
    pub fn start(shards: u16) -> Self {
        Self::start_with(shards, &[])
    }

    pub fn start_with(shards: u16, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
        command.args(ARGS).args(["--shards", &shards.to_string()]).args(args);
        Self::run(command).unwrap_or_else(|ended| panic!("it does not serve: {ended:?}"))
    }

    /// Starts it and waits until it serves, or has ended.
    pub fn try_start(args: &[&str]) -> Result<Self, Ended> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
        command.args(ARGS).args(args);
        Self::run(command)
    }

    /// The same by a command that runs it in the end.
    pub fn run(mut command: Command) -> Result<Self, Ended> {
        let stderr = Said::new();
        let mut process = Process::start(&mut command, Stdio::piped(), stderr.file());
        let out = process.0.stdout.take().expect("it is piped");
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut catena = Catena { process, address: unknown, admin: None, stderr };
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let behind = |words| line.split_once(words)?.1.split([' ', '/']).next();
            catena.admin = behind("metrics on http://")
                .and_then(|address| address.parse().ok())
                .or(catena.admin);
            let is_native = line.ends_with("(native protocol)");
            if let Some(address) = behind("listening on ").filter(|_| !is_native) {
                catena.address = address.parse().unwrap_or(unknown);
                break;
            }
        }
        match catena.wait_until_it_serves() {
            Some(code) => Err(Ended { code, stderr: catena.stderr() }),
            None => Ok(catena),
        }
    }

    /// Ends it without a word, as a power failure of this process alone.
    pub fn kill(mut self) {
        self.process.0.kill().expect("it runs");
        self.process.0.wait().expect("it is a child of this process");
    }

    /// Asks it to end in order, and waits until it has.
    pub fn terminate(self) -> Ended {
        let id = Pid::from_raw(self.process.0.id().cast_signed()).expect("no process has number 0");
        kill_process(id, Signal::TERM).expect("it runs");
        self.wait()
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self) -> Ended {
        let status = self.process.0.wait().expect("it is a child of this process");
        Ended { code: status.code(), stderr: self.stderr() }
    }

    /// What it has said so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr.0).expect("its own file")
    }

    /// It listens before it has taken in what is on the disk. With its exit code if it ends instead.
    fn wait_until_it_serves(&mut self) -> Option<Option<i32>> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.0.try_wait().expect("it is a child of this process")
            {
                return Some(status.code());
            }
            if let Ok(socket) = TcpStream::connect(self.address) {
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let mut peer = Peer::new(socket);
                if peer.try_ask("DBSIZE").is_some_and(|reply| !reply.starts_with("-LOADING")) {
                    return None;
                }
            }
            assert!(Instant::now() < give_up, "it does not begin to serve: {}", self.stderr());
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

    /// One of its pages: the line of its status, and its text. It was told `--admin`.
    pub fn page(&self, path: &str) -> (String, String) {
        let mut socket =
            TcpStream::connect(self.admin.expect("it shows pages")).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(socket, "GET {path} HTTP/1.0\r\n\r\n").expect("it listens");
        let mut all = String::new();
        socket.read_to_string(&mut all).expect("it answers");
        let (head, text) = all.split_once("\r\n\r\n").expect("a head and a text");
        (head.lines().next().unwrap_or_default().to_owned(), text.to_owned())
    }

    /// The most memory that it ever had, in bytes.
    pub fn most_resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.0.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_ascii_whitespace().next()).expect("a number");
        kib.parse::<u64>().expect("a number") * 1_024
    }

    /// Memory in bytes that is there and not just reserved.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.process.0.id());
        let statm = std::fs::read_to_string(path).expect("it runs");
        let pages = statm.split_ascii_whitespace().nth(1).expect("the second field");
        pages.parse::<u64>().expect("a number") * 4_096
    }
}

/// Any spare processor time belongs to the other tests.
pub const ARGS: [&str; 7] = ["serve", "--listen", "127.0.0.1:0", "--poll", "never", "--log", "off"];

/// A file that takes what a process says, and goes with its server.
struct Said(PathBuf);

impl Said {
    fn new() -> Self {
        Said(temporary_directory("said").join("stderr"))
    }

    fn file(&self) -> Stdio {
        File::create(&self.0).expect("a place for temporary files").into()
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        let _left_to_the_system = std::fs::remove_dir_all(self.0.parent().expect("its directory"));
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
        let process = Process::start(&mut command, Stdio::null(), Stdio::null());
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
    fn start(command: &mut Command, stdout: Stdio, stderr: Stdio) -> Self {
        let command = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
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
