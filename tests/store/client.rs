//! A client on a simulated host of its own: it sends commands one behind the other, and takes the answers.

use crate::machine::Machine;
use catena_engine::driver::{Completion, Driver, Output, SendState, SocketId};
use catena_engine::sim::{SimDriver, World};
use catena_engine::time::Duration;
use catena_kv::resp::{Protocol, Reply, Value};
use std::collections::VecDeque;

/// See the module page. `T` says what an answer is for.
pub struct Client<T> {
    driver: SimDriver,
    /// The port of one shard; `None`: the one that all share.
    shard: Option<usize>,
    socket: Option<SocketId>,
    is_open: bool,
    is_sending: bool,
    unsent: Vec<u8>,
    received: Vec<u8>,
    /// What the answers to come are for.
    waiting: VecDeque<T>,
}

impl<T> Client<T> {
    pub fn new(world: &mut World) -> Self {
        Client::on_port_of(world, None)
    }

    /// On a shard's own port.
    pub fn on_port_of(world: &mut World, shard: Option<usize>) -> Self {
        Client {
            driver: world.bare_host(1).remove(0),
            shard,
            socket: None,
            is_open: false,
            is_sending: false,
            unsent: Vec::new(),
            received: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// True if commands can be sent.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Commands that were not answered.
    pub fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// The connection is no more; nothing is answered any more.
    pub fn forget(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.driver.close(socket);
        }
        (self.is_open, self.is_sending) = (false, false);
        self.unsent.clear();
        self.received.clear();
        self.waiting.clear();
    }

    /// Sends a command with the next step.
    pub fn ask(&mut self, what: T, words: &[impl AsRef<[u8]>]) {
        let mut reply = Reply::new(&mut self.unsent, Protocol::Resp2);
        reply.array(words.len());
        words.iter().for_each(|word| reply.bulk(word.as_ref()));
        self.waiting.push_back(what);
    }

    /// Lets a moment pass. The answers that have come.
    pub fn step(&mut self, world: &mut World, machine: &Machine) -> Vec<(T, Value)> {
        self.send(machine);
        machine.run_for(world, Duration::from_micros(200));
        let mut is_lost = false;
        while self.driver.poll().is_ok_and(|something| something) {
            while let Some(completion) = self.driver.next_completion() {
                is_lost |= self.take(completion);
            }
        }
        let answers = self.answers();
        if is_lost {
            self.forget();
        }
        answers
    }

    fn send(&mut self, machine: &Machine) {
        if self.socket.is_none() {
            let shared = || machine.address();
            let address = self.shard.map_or_else(shared, |shard| machine.shard_address(shard));
            self.socket = self.driver.connect(address).ok();
        }
        let is_free = self.is_open && !self.is_sending && !self.unsent.is_empty();
        if let Some(socket) = self.socket
            && is_free
        {
            let mut output = Output::default();
            output.copied_mut().append(&mut self.unsent);
            self.is_sending = matches!(self.driver.send(socket, output), SendState::InFlight);
        }
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

    fn answers(&mut self) -> Vec<(T, Value)> {
        let mut answers = Vec::new();
        let mut rest = &self.received[..];
        loop {
            let mut ahead = rest;
            let Ok(value) = Value::read(&mut ahead) else { break };
            rest = ahead;
            answers.push((self.waiting.pop_front().expect("it was asked"), value));
        }
        let read = self.received.len() - rest.len();
        self.received.drain(..read);
        answers
    }
}
