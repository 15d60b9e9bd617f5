//! A client on a simulated host of its own, and what it may find after a crash.

use catena_engine::driver::{Completion, Driver, Output, SendState, SocketId};
use catena_engine::rng::Rng;
use catena_engine::sim::{SimDriver, World};
use catena_engine::time::Duration;
use catena_kv::resp::{Protocol, Reply, Value};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

const KEYS: u64 = 40;
const IN_FLIGHT: usize = 16;

/// What was written, and what is known of it.
#[derive(Default)]
pub struct History {
    keys: BTreeMap<u64, Key>,
    written: u64,
    acknowledged: u64,
}

/// One key: the last value that was acknowledged, and those written since, in order, of which nobody knows.
#[derive(Default)]
struct Key {
    acknowledged: Option<u64>,
    unknown: Vec<u64>,
}

impl History {
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// What is read must be the last value acknowledged, or a later one; it is known then.
    pub fn check(&mut self, read: &BTreeMap<u64, Option<u64>>) -> Result<(), String> {
        for (number, found) in read {
            let key = self.keys.entry(*number).or_default();
            let is_fine = *found == key.acknowledged
                || found.is_some_and(|found| key.unknown.contains(&found));
            if !is_fine {
                let Key { acknowledged, unknown } = key;
                return Err(format!(
                    "key {number} has {found:?}; acknowledged was {acknowledged:?}, then perhaps {unknown:?}"
                ));
            }
            (key.acknowledged, key.unknown) = (*found, Vec::new());
        }
        Ok(())
    }
}

/// See the module page.
pub struct Client {
    driver: SimDriver,
    rng: Rng,
    socket: Option<SocketId>,
    is_open: bool,
    is_sending: bool,
    unsent: Vec<u8>,
    received: Vec<u8>,
    /// What the answers to come are for.
    waiting: VecDeque<Asked>,
}

#[derive(Clone, Copy)]
enum Asked {
    Set { key: u64, value: u64 },
    Get { key: u64 },
}

impl Client {
    pub fn new(world: &mut World, seed: u64) -> Self {
        Client {
            driver: world.bare_host(1).remove(0),
            rng: Rng::from_seed(seed),
            socket: None,
            is_open: false,
            is_sending: false,
            unsent: Vec::new(),
            received: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The connection is no more; what was not answered is unknown.
    pub fn forget(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.driver.close(socket);
        }
        (self.is_open, self.is_sending) = (false, false);
        self.unsent.clear();
        self.received.clear();
        self.waiting.clear();
    }

    /// Writes as much as may be under way, and takes answers.
    pub fn write_on(&mut self, world: &mut World, address: SocketAddr, history: &mut History) {
        while self.is_open && self.waiting.len() < IN_FLIGHT {
            history.written += 1;
            let (key, value) = (self.rng.next_u64() % KEYS, history.written);
            history.keys.entry(key).or_default().unknown.push(value);
            self.ask(Asked::Set { key, value });
        }
        for (asked, answer) in self.step(world, address) {
            let Asked::Set { key, value } = asked else { continue };
            if answer == Value::Simple("OK".to_owned()) {
                history.acknowledged += 1;
                let key = history.keys.get_mut(&key).expect("it was written");
                let place = key.unknown.iter().position(|unknown| *unknown == value);
                key.unknown.drain(..=place.expect("it was not known before"));
                key.acknowledged = Some(value);
            }
        }
    }

    /// Reads all keys, once the store serves. `None`: it does not.
    pub fn read_all(
        &mut self,
        world: &mut World,
        address: SocketAddr,
        history: &History,
    ) -> Option<BTreeMap<u64, Option<u64>>> {
        let give_up = world.now() + Duration::from_secs(30);
        let mut read = BTreeMap::new();
        while read.len() < history.keys.len() {
            if world.now() > give_up {
                return None;
            }
            if self.is_open && self.waiting.is_empty() {
                let missing = history.keys.keys().filter(|key| !read.contains_key(*key));
                let missing: Vec<u64> = missing.copied().collect();
                missing.into_iter().for_each(|key| self.ask(Asked::Get { key }));
            }
            for (asked, answer) in self.step(world, address) {
                let Asked::Get { key } = asked else { continue };
                match answer {
                    Value::Null => read.insert(key, None),
                    Value::Bulk(bytes) => {
                        let text = String::from_utf8(bytes).expect("numbers were written");
                        let value = text.split('-').next().and_then(|number| number.parse().ok());
                        read.insert(key, Some(value.expect("numbers were written")))
                    }
                    // It has not recovered yet.
                    _ => None,
                };
            }
        }
        Some(read)
    }

    fn ask(&mut self, asked: Asked) {
        let mut reply = Reply::new(&mut self.unsent, Protocol::Resp2);
        match asked {
            Asked::Set { key, value } => {
                reply.array(3);
                reply.bulk(b"SET");
                reply.bulk(format!("key-{key}").as_bytes());
                reply.bulk(format!("{value}-{}", "x".repeat((value % 300) as usize)).as_bytes());
            }
            Asked::Get { key } => {
                reply.array(2);
                reply.bulk(b"GET");
                reply.bulk(format!("key-{key}").as_bytes());
            }
        }
        self.waiting.push_back(asked);
    }

    /// Lets a moment pass. The answers that have come.
    fn step(&mut self, world: &mut World, address: SocketAddr) -> Vec<(Asked, Value)> {
        if self.socket.is_none() {
            self.socket = self.driver.connect(address).ok();
        }
        if let Some(socket) = self.socket
            && self.is_open
            && !self.is_sending
            && !self.unsent.is_empty()
        {
            let mut output = Output::default();
            output.copied_mut().append(&mut self.unsent);
            self.is_sending = matches!(self.driver.send(socket, output), SendState::InFlight);
        }
        world.run_for(Duration::from_micros(200));
        let mut is_lost = false;
        while self.driver.poll().is_ok_and(|something| something) {
            while let Some(completion) = self.driver.next_completion() {
                is_lost |= self.take(completion);
            }
        }
        let answers = self.answers();
        if is_lost {
            self.socket.take().into_iter().for_each(|socket| self.driver.close(socket));
            (self.is_open, self.is_sending) = (false, false);
            self.unsent.clear();
            self.received.clear();
            self.waiting.clear();
        }
        answers
    }

    /// True if the connection is lost.
    fn take(&mut self, completion: Completion) -> bool {
        match completion {
            Completion::Connected { socket, result } if Some(socket) == self.socket => {
                self.is_open = result.is_ok();
                if result.is_err() {
                    self.socket = None;
                }
                false
            }
            Completion::Received { socket, chunk } => {
                if Some(socket) == self.socket {
                    self.received.extend_from_slice(self.driver.bytes(&chunk));
                }
                self.driver.give_back(chunk);
                false
            }
            Completion::Sent { socket, result, .. } if Some(socket) == self.socket => {
                self.is_sending = false;
                result.is_err()
            }
            Completion::ReceiveEnded { socket, .. } => Some(socket) == self.socket,
            _ => false,
        }
    }

    fn answers(&mut self) -> Vec<(Asked, Value)> {
        let mut answers = Vec::new();
        let mut rest = &self.received[..];
        loop {
            let mut ahead = rest;
            let Ok(value) = Value::read(&mut ahead) else { break };
            rest = ahead;
            answers.push((self.waiting.pop_front().expect("it was asked"), value));
        }
        self.received = rest.to_vec();
        answers
    }
}
