//! Servers in processes of their own, which end with this one whatever happens to it.
//!
//! A child reads its standard input, a pipe whose other end is here, and ends when that ends: when it
//! is dropped, and when this process is gone, even killed.

use crate::Failure;
use crate::serve::LISTENING_ON;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take to end before it is killed.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// A running server. Ends, and is waited for, when dropped.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    address: SocketAddr,
}

impl Child {
    /// Starts this very program with `args`, and waits until it listens.
    ///
    /// # Errors
    /// If it cannot be started; with its own words if it ended.
    pub fn start(args: &[String]) -> Result<Child, Failure> {
        let program = std::env::current_exe()?;
        let mut process = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // ^C on the terminal is for whoever measures, who ends its servers when it is done.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start a server process: {error}"))?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().expect("it was asked for a pipe");
        let stderr = process.stderr.take().expect("it was asked for a pipe");

        // Both pipes are read to their ends, so that the child never waits for us.
        let (tell, told) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix(LISTENING_ON) {
                    let _gone = tell.send(address.parse::<SocketAddr>());
                }
            }
        });
        let words = thread::spawn(move || {
            let mut words = String::new();
            let _as_far_as_it_goes = BufReader::new(stderr).read_to_string(&mut words);
            words
        });

        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut child = Child { process, stdin, address: unknown };
        match told.recv_timeout(START_PATIENCE) {
            Ok(address) => {
                child.address = address?;
                Ok(child)
            }
            Err(RecvTimeoutError::Timeout) => {
                Err("a server process did not begin to listen".into())
            }
            Err(RecvTimeoutError::Disconnected) => {
                drop(child);
                let words = words.join().unwrap_or_default();
                Err(format!("a server process ended: {}", words.trim()).into())
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal. Nothing happens if it has ended.
    pub fn signal(&self, signal: Signal) {
        // It is a child of ours that nobody has waited for, so the number is still its own.
        let _ended = kill_process(Pid::from_child(&self.process), signal);
    }

    /// True once it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Ends it at once, also while it is stopped.
    pub fn kill(&mut self) {
        // Killing fails only if it has ended, and waiting then returns at once.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let give_up = Instant::now() + END_PATIENCE;
        while Instant::now() < give_up {
            if self.has_ended() {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        // It had its time.
        self.kill();
    }
}
