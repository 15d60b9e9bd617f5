//! One connection and its tokio socket.

use super::{Call, Clock, Outcome, Queue};
use crate::client::{Answer, CallError};
use crate::config::ConnectionConfig;
use crate::limits::{LINGER, SEND_SLICES_MAX};
use crate::rpc::connection::{CallFailure, Connection, Event, Role};
use crate::rpc::error::{CloseReason, StartError};
use crate::time::Instant;
use crate::wire::deframer::Input;
use crate::wire::frame::CallId;
use crate::wire::hello::ShardMap;
use crate::wire::output::Output;
use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::net::TcpStream;
use ::tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use ::tokio::sync::{mpsc, oneshot};
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Bytes that one read takes at most.
const READ_BYTES: usize = 64 * 1_024;

/// One connection from hello to end.
pub(super) struct Conversation {
    connection: Connection,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    input: BytesMut,
    /// What is being written, and how much of it is.
    output: Option<(Output, usize)>,
    /// Calls in flight by number.
    calls: BTreeMap<u64, (CallId, oneshot::Sender<Outcome>)>,
    has_answered: bool,
    /// Why it takes no more calls. Those in flight may still be answered.
    end_reason: Option<CloseReason>,
    is_closed: bool,
    /// Nothing is read, because the server does not take our pongs.
    is_paused: bool,
}

impl Conversation {
    pub(super) fn new(stream: TcpStream, config: Arc<ConnectionConfig>, now: Instant) -> Self {
        // Without it small calls wait for each other; that is slower, and no reason to fail.
        drop(stream.set_nodelay(true));
        let (reader, writer) = stream.into_split();
        Conversation {
            connection: Connection::new(Role::Client, config, &ShardMap::default(), now),
            reader,
            writer,
            input: BytesMut::new(),
            output: None,
            calls: BTreeMap::new(),
            has_answered: false,
            end_reason: None,
            is_closed: false,
            is_paused: false,
        }
    }

    /// Why it takes no more calls, if it does not.
    pub(super) fn end_reason(&self) -> Option<&CloseReason> {
        self.end_reason.as_ref()
    }

    /// It has answered a call.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Starts as many of the calls that wait as the server takes.
    pub(super) fn start_calls(&mut self, queue: &mut Queue<Box<Call>>, now: Instant) {
        while let Some((number, call)) = queue.first() {
            let started = self.connection.start_call(call.request(), number, now);
            if let Err(StartError::NotOpen | StartError::Leaving | StartError::WindowFull) = started
            {
                return;
            }
            let call = queue.remove(number).expect("it was the first");
            match started {
                Ok(id) => drop(self.calls.insert(number, (id, call.result))),
                Err(error) => call.end(Err(error.into())),
            }
        }
    }

    /// Gives up a call; true if it was in flight here.
    pub(super) fn forget(&mut self, number: u64) -> bool {
        let Some((call, _)) = self.calls.remove(&number) else { return false };
        self.connection.cancel(call);
        self.take_events();
        true
    }

    /// Nobody will call any more.
    pub(super) fn leave(&mut self, now: Instant) {
        self.connection.drain(now);
        self.take_events();
    }

    /// Until the next thing has happened: bytes came or went, or time has passed. May be dropped and
    /// called again.
    pub(super) async fn turn(&mut self, clock: Clock) {
        self.prepare(clock.now());
        let wake_at = self.connection.poll_timeout();
        ::tokio::select! {
            read = self.reader.read_buf(&mut self.input), if !self.is_paused => {
                self.received(read, clock.now());
            }
            written = write_some(&mut self.writer, self.output.as_ref()) => {
                self.sent(written, clock.now());
            }
            () = clock.sleep_until(wake_at) => self.connection.handle_timeout(clock.now()),
        }
        self.take_events();
    }

    /// After it takes no more calls: lets those in flight end, unless they are given up, then the
    /// connection.
    pub(super) async fn finish(
        mut self,
        clock: Clock,
        mut forgotten: mpsc::UnboundedReceiver<u64>,
    ) {
        while !self.is_closed {
            ::tokio::select! {
                Some(number) = forgotten.recv() => drop(self.forget(number)),
                () = self.turn(clock) => {}
            }
        }
        // A server that does not take the last word, or does not close, must do without it.
        drop(::tokio::time::timeout(LINGER, self.say_last_word(clock)).await);
    }

    /// Sends what is left to send, and waits for the server to close: a close of ours might destroy
    /// what it has not read yet.
    async fn say_last_word(&mut self, clock: Clock) -> io::Result<()> {
        loop {
            self.prepare(clock.now());
            if self.output.is_none() {
                break;
            }
            let written = write_some(&mut self.writer, self.output.as_ref()).await?;
            self.sent(Ok(written), clock.now());
        }
        self.writer.shutdown().await?;
        loop {
            self.input.clear();
            if self.reader.read_buf(&mut self.input).await? == 0 {
                return Ok(());
            }
        }
    }
}

/// Bytes and events.
impl Conversation {
    /// Room for what comes, and what is to be written next.
    fn prepare(&mut self, now: Instant) {
        self.input.reserve(READ_BYTES);
        if self.output.is_none()
            && let Some(output) = self.connection.poll_transmit()
        {
            self.connection.handle_send_started(output.len(), now);
            self.output = Some((output, 0));
        }
        let is_full = self.connection.is_output_full();
        match (is_full, self.is_paused) {
            (true, false) => self.connection.handle_receive_paused(),
            (false, true) => self.connection.handle_receive_resumed(now),
            _ => {}
        }
        self.is_paused = is_full;
    }

    fn sent(&mut self, written: io::Result<usize>, now: Instant) {
        let (output, sent) = self.output.as_mut().expect("something was being written");
        match written {
            Ok(bytes) => {
                *sent += bytes;
                if *sent == output.len() {
                    self.output = None;
                    self.connection.handle_send_ended(now);
                }
            }
            Err(error) => self.connection.handle_end(Err(error)),
        }
    }

    fn received(&mut self, read: io::Result<usize>, now: Instant) {
        match read {
            Ok(0) => self.connection.handle_end(Ok(())),
            Ok(_) => self.read(now),
            Err(error) => self.connection.handle_end(Err(error)),
        }
    }

    /// Takes in what was received.
    fn read(&mut self, now: Instant) {
        let chunk = self.input.split().freeze();
        let mut input = Input::new(&chunk);
        while let Some(event) = self.connection.handle_bytes(&mut input, now) {
            match event {
                Event::Response { token, head, body } => {
                    let payload = body.to_payload_bytes(|| chunk.clone());
                    self.has_answered = true;
                    self.end(token, Answer::of(head, payload));
                    self.connection.recycle(body);
                }
                other => self.on_event(other),
            }
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::CallFailed { token, failure } => self.end(
                token,
                Err(match failure {
                    CallFailure::DeadlinePassed => CallError::DeadlinePassed,
                    CallFailure::ConnectionEnded => CallError::ConnectionLost,
                }),
            ),
            Event::PeerLeaves { reason, text } => {
                tracing::debug!(?reason, text, "the server says go-away");
                self.end_reason.get_or_insert(CloseReason::PeerLeft(reason));
            }
            Event::Closed(reason) => {
                if reason.is_peers_fault() {
                    tracing::warn!(%reason, "connection ended by the server's fault");
                } else {
                    tracing::debug!(%reason, "connection ended");
                }
                self.end_reason.get_or_insert(reason);
                self.is_closed = true;
            }
            Event::Opened
            | Event::RequestDropped { .. }
            | Event::RequestRefused { .. }
            | Event::Pinged { .. }
            | Event::Ponged(_) => {}
            Event::Request { .. } | Event::Response { .. } => {
                unreachable!("a client gets no requests, and takes responses where bytes are read")
            }
        }
    }

    fn end(&mut self, number: u64, outcome: Outcome) {
        if let Some((_, result)) = self.calls.remove(&number) {
            // Whoever asked may have gone away.
            drop(result.send(outcome));
        }
    }
}

/// Writes some of the output from where it was left; never ends if there is none.
async fn write_some(
    writer: &mut OwnedWriteHalf,
    output: Option<&(Output, usize)>,
) -> io::Result<usize> {
    let Some((output, written)) = output else { return std::future::pending().await };
    let slices: Vec<_> = output.slices(*written, SEND_SLICES_MAX).collect();
    writer.write_vectored(&slices).await
}
