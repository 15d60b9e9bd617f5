//! The Redis protocol on a shard: streams → commands → answers.
//!
//! ```text
//! bytes ─► parser ─► spec ─┬─ keys of this shard ─► keyspace ──► answer ─► output, or behind those that wait
//!                          ├─ keys of another one ─► MOVED (own port) or handed over (shared port)
//!                          └─ about the connection or the server ─► here
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`client`] | what is known of a connection |
//! | [`answers`] | the order of answers, while some wait |
//! | [`bundle`], [`hand_over`], `ask` | commands that another shard carries out, and its answers |
//! | [`everywhere`] | commands about all keys |
//! | [`backup`] | all keys of a shard, for who keeps them elsewhere |
//! | [`here`] | commands about the connection and the server |
//! | [`server`] | what these know of the server |

pub mod answers;
mod ask;
pub mod backup;
pub mod bundle;
pub mod client;
pub mod debts;
pub mod everywhere;
pub mod hand_over;
pub mod here;
pub mod server;
mod split;
mod transaction;

use crate::command::error::Error;
use crate::command::spec::{self, Here, Run, RunKeyed, Spec};
use crate::resp::{Args, Limits, Parsed, Parser, Protocol, Reply};
use crate::slot::Slot;
use crate::store::Store;
use crate::store::figures::LogFigures;
use crate::store::gate::Elsewhere;
use answers::{Answers, Lost};
use ask::{Postponed, Walked, Walks};
use bundle::{Bundle, Whole};
use catena_engine::application::{Addresses, Message};
use catena_engine::shard_index::ShardIndex;
use catena_engine::stream::{Stream, StreamId, Streams};
use catena_engine::time::{Duration, Instant};
use catena_engine::{Application, Local};
use client::{Client, ClientState};
use debts::Gathered;
use hand_over::HandOver;
use here::Place;
use here::slowlog::{TIMED_BYTES_MIN, Timed};
use server::{Server, Totals};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use transaction::Bracket;

/// Commands of a pipeline whose keys are brought into the cache together: as many as a core has reads of
/// memory under way, about.
const PREFETCH_COMMANDS_MAX: usize = 16;

/// How often a shard looks at the memory that the others take: rarely enough that their cache lines cost
/// nothing, often enough that the bound is passed by little.
const TURNS_BETWEEN_LOOKS: u32 = 16;

/// The same where turns are rare. Upkeep sees to ten in a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Memory that is kept for the next turn's answers on their way to where they wait.
const SCRATCH_KEPT_BYTES: usize = 64 * 1_024;

/// The application that speaks the Redis protocol on one shard.
pub struct Redis {
    local: Local,
    store: Rc<RefCell<Store>>,
    clock: Box<dyn Fn() -> u64>,
    limits: Limits,
    clients: Vec<Option<Box<Client>>>,
    clients_begun: u64,
    /// Those whose answers wait, or who are slowed.
    waiting: Vec<StreamId>,
    /// Memory for an answer that does not go straight out.
    scratch: Vec<u8>,
    scout: Parser,
    asked_parser: Parser,
    addresses: Addresses,
    server: Arc<Server>,
    hand_over: HandOver,
    /// What has come from other shards and waits.
    gathered: Gathered,
    /// False while the keys are not there yet.
    serving: Rc<Cell<bool>>,
    /// Walks of `KEYS` that have ended since the last turn.
    walked: Walked,
    walks: Rc<RefCell<Walks>>,
    /// What this shard has counted, and whether that is more than it has published.
    totals: Totals,
    is_unpublished: bool,
    published_bytes: u64,
    published_log: LogFigures,
    /// The end of the last turn.
    turn_ended_at: Instant,
    /// By shard: its commands that wait for this one's log, or for the answers before theirs to be gone.
    postponed: Vec<VecDeque<Postponed>>,
    /// Some of these wait for no log.
    has_more_to_tell: ask::More,
    /// A turn is seen to in which it is looked whether they have to wait any longer.
    looks_again: Rc<Cell<bool>>,
    /// Connections that `CLIENT KILL` ends, each with the one that has asked for it if that is here.
    ending: Vec<(StreamId, Option<StreamId>)>,
    /// Clients that are slowed.
    slowed: usize,
    /// The latest look at the clock that a command's lease is held against.
    latest: Instant,
    /// When it was looked at the memory that the others take.
    looked_at: Instant,
    turns: u32,
}

/// The longest argument: what is no value may be as long as a file of settings, also where values are short.
fn bulk_bytes_max(value_bytes_max: u64) -> u32 {
    u32::try_from(value_bytes_max).unwrap_or(u32::MAX).max(1 << 20)
}

impl Redis {
    /// Serves the keys of `store`. `clock` tells Unix time in milliseconds.
    pub fn new(
        local: &Local,
        server: Arc<Server>,
        store: Rc<RefCell<Store>>,
        clock: impl Fn() -> u64 + 'static,
    ) -> Self {
        server.begin(local.shard_count(), clock());
        let debts = server.debts().clone();
        Redis {
            local: local.clone(),
            store,
            clock: Box::new(clock),
            limits: Limits {
                unauthenticated: server.config.password.is_some(),
                bulk_bytes_max: bulk_bytes_max(server.config.value_bytes_max),
                ..Limits::default()
            },
            clients: Vec::new(),
            clients_begun: 0,
            waiting: Vec::new(),
            scratch: Vec::new(),
            scout: Parser::default(),
            asked_parser: Parser::default(),
            addresses: Addresses::default(),
            server,
            gathered: Gathered::default(),
            hand_over: HandOver::new(local.shard(), local.shard_count(), debts),
            serving: Rc::default(),
            walked: Walked::default(),
            walks: Rc::default(),
            totals: Totals::default(),
            is_unpublished: true,
            published_bytes: 0,
            published_log: LogFigures::default(),
            turn_ended_at: local.now(),
            postponed: (0..local.shard_count()).map(|_| VecDeque::new()).collect(),
            has_more_to_tell: ask::More::default(),
            looks_again: Rc::default(),
            ending: Vec::new(),
            slowed: 0,
            latest: local.now(),
            looked_at: local.now(),
            turns: 0,
        }
    }

    /// To be set when the store has its keys: until then commands on keys are refused.
    pub fn serving(&self) -> Rc<Cell<bool>> {
        self.serving.clone()
    }
}

impl Application for Redis {
    fn started(&mut self, addresses: Addresses) {
        self.addresses = addresses;
    }

    fn accepted(&mut self, stream: &mut Stream<'_>) {
        if stream.is_surplus() {
            stream.output().extend_from_slice(b"-ERR max number of clients reached\r\n");
            self.totals.rejected += 1;
        }
        self.totals.clients += 1;
        self.totals.accepted += 1;
        self.is_unpublished = true;
        self.clients_begun += 1;
        let shards = u64::from(self.local.shard_count());
        let state = ClientState {
            id: self.clients_begun * shards + self.local.shard().index() as u64,
            stream: stream.id(),
            address: stream.peer_address(),
            is_on_own_port: stream.is_on_own_port(),
            is_readonly: false,
            connected_at: self.local.now(),
            protocol: Protocol::Resp2,
            is_authenticated: self.server.config.password.is_none(),
            name: Vec::new(),
            library: Default::default(),
            last_command: "",
            last_command_at: self.local.now(),
            answers: Default::default(),
            is_barred: false,
            is_slowed: false,
            is_waiting: false,
            transaction: None,
            backup: None,
        };
        let slot = stream.id().slot();
        if self.clients.len() <= slot {
            self.clients.resize_with(slot + 1, || None);
        }
        self.clients[slot] = Some(Box::new(Client::new(self.limits, state)));
    }

    fn received(&mut self, bytes: &[u8], stream: &mut Stream<'_>) -> usize {
        let slot = stream.id().slot();
        let Some(mut client) = self.clients.get_mut(slot).and_then(Option::take) else { return 0 };
        let waited = stream.waiting_bytes();
        let read = self.read(&mut client, bytes, stream);
        self.clients[slot] = Some(client);
        self.totals.bytes_in += read as u64;
        self.totals.bytes_out += (stream.waiting_bytes() - waited) as u64;
        self.is_unpublished = true;
        read
    }

    fn closed(&mut self, stream: StreamId) {
        if let Some(mut client) = self.clients[stream.slot()].take() {
            if !client.state.answers.is_empty() {
                self.hand_over.forget(stream);
            }
            backup::end(&mut client.state, &mut self.store.borrow_mut());
            self.totals.clients -= 1;
            self.is_unpublished = true;
        }
    }

    fn owes(&self, stream: StreamId) -> bool {
        let client = self.clients.get(stream.slot()).and_then(Option::as_deref);
        client.is_some_and(|client| !client.state.answers.is_empty())
    }

    fn message(&mut self, from: ShardIndex, message: Message, _: &mut Streams) {
        let message = message.downcast::<Bundle>().expect("the shards of a store send these");
        self.take_bundle(from, message);
        self.is_unpublished = true;
    }

    fn turn_ended(&mut self, streams: &mut Streams) {
        self.carry_out_postponed();
        self.bound_gathered();
        self.end_streams(streams);
        self.tell_walked();
        self.tell_committed();
        self.release_answers(streams);
        self.hand_over.send(&self.local);
        self.go_on_telling();
        self.scratch.shrink_to(SCRATCH_KEPT_BYTES);
        self.publish();
        self.turns = self.turns.wrapping_add(1);
        let now = self.local.now();
        let is_long_ago = now.since(self.looked_at) >= LOOK_INTERVAL;
        if is_long_ago || self.turns.is_multiple_of(TURNS_BETWEEN_LOOKS) {
            self.looked_at = now;
            let elsewhere = self.server.bytes_elsewhere(self.local.shard());
            let mut store = self.store.borrow_mut();
            store.note_bytes_elsewhere(elsewhere);
            store.keep_bound((self.clock)(), || self.local.random());
        }
    }
}

impl Redis {
    /// Publishes what has changed: a dozen stores into this shard's own cache lines.
    fn publish(&mut self) {
        let store = self.store.borrow();
        let (counters, memory) = (store.counters(), store.memory());
        // Upkeep changes what there is without any command, and the disk how the log is.
        let (bytes_used, log) = (memory.bytes_used(), store.log_figures());
        let before = std::mem::replace(&mut self.published_log, log);
        let since = std::mem::replace(&mut self.turn_ended_at, self.local.now());
        if before.is_behind {
            self.totals.log_lag += self.local.now().since(since).as_nanos() as u64;
        }
        let is_behind = u64::from(store.is_behind());
        let was_behind = std::mem::replace(&mut self.totals.shards_behind, is_behind);
        let is_as_published =
            bytes_used == self.published_bytes && log == before && is_behind == was_behind;
        if !std::mem::take(&mut self.is_unpublished) && is_as_published && !log.is_behind {
            return;
        }
        self.published_bytes = bytes_used;
        if log.is_hindered != before.is_hindered {
            self.server.set_hindrance(self.local.shard(), store.log_hindrance());
        }
        let totals = Totals {
            keys: memory.keys(),
            expiring: memory.expiring(),
            bytes_used,
            bytes_held: memory.bytes_held(),
            hits: counters.hits,
            misses: counters.misses,
            expired: counters.expired,
            evicted: counters.evicted,
            ..self.totals.with(&log)
        };
        self.server.figures(self.local.shard()).publish(&totals);
    }

    /// Ends what is to be ended: at once, but for the one that has asked for it, who is answered before.
    fn end_streams(&mut self, streams: &mut Streams) {
        for (stream, asker) in self.ending.drain(..) {
            let Some(mut output) = streams.get(stream) else { continue };
            if asker == Some(stream) { output.close() } else { output.abort() }
        }
    }

    /// Sends the answers that are due.
    fn release_answers(&mut self, streams: &mut Streams) {
        if self.waiting.is_empty() {
            return;
        }
        self.is_unpublished = true;
        let store = self.store.borrow();
        let is_behind = self.slowed > 0 && self.server.is_some_shard_behind();
        self.slowed = 0;
        // A command may have come after the turn began.
        let now = self.latest.max(self.local.now());
        let (clients, hand_over) = (&mut self.clients, &mut self.hand_over);
        self.waiting.retain(|stream| {
            let client = clients.get_mut(stream.slot()).and_then(Option::as_deref_mut);
            let Some(client) = client.filter(|client| client.state.stream == *stream) else {
                return false;
            };
            let Some(mut output) = streams.get(*stream) else { return false };
            let (answers, text) = (&mut client.state.answers, output.output());
            let before = text.len();
            let released = answers.release(text, |gate| store.gate_state(gate, now));
            self.totals.bytes_out += (text.len() - before) as u64;
            if released == Err(Lost) {
                client.state.answers = Answers::default();
                hand_over.forget(*stream);
                output.close();
                return false;
            }
            let state = &mut client.state;
            state.is_barred &= !state.answers.is_empty();
            state.is_slowed &= is_behind;
            self.slowed += usize::from(state.is_slowed);
            if !state.is_barred && !state.is_slowed && state.answers.has_room() {
                streams.read_on(*stream);
            }
            state.is_waiting = !state.answers.is_empty() || state.is_slowed;
            state.is_waiting
        });
    }

    fn read(&mut self, client: &mut Client, bytes: &[u8], stream: &mut Stream<'_>) -> usize {
        let store = self.store.clone();
        let mut store = store.borrow_mut();
        let now_ms = (self.clock)();
        let Client { parser, state } = client;
        let mut read = 0;
        let mut prefetched = 0;
        loop {
            // Not within a command that arrives in pieces: its beginning was looked at before.
            if prefetched == 0 && parser.is_between() {
                prefetched = self.prefetch(&store, &bytes[read..]);
            }
            prefetched = prefetched.saturating_sub(1);
            match parser.next(&bytes[read..]) {
                Ok(Parsed::Command { args, read: length }) => {
                    match self.run(state, &mut store, &args, stream, now_ms) {
                        Taken::Yes => read += length,
                        Taken::WhenAnswered => state.is_barred = true,
                        Taken::WhenWritten => {
                            state.is_slowed = true;
                            self.slowed += 1;
                            self.wait(state);
                        }
                    }
                    // AUTH, HELLO and RESET change what it may announce.
                    if parser.limits().unauthenticated == state.is_authenticated {
                        let unauthenticated = !state.is_authenticated;
                        parser.set_limits(Limits { unauthenticated, ..self.limits });
                    }
                }
                Ok(Parsed::Empty { read: length }) => read += length,
                Ok(Parsed::Incomplete { .. }) => break,
                Err(error) => {
                    let mut text = Vec::new();
                    error.write(&mut text);
                    self.totals.count_error(&text);
                    self.answer(state, stream, |reply| reply.error(&text));
                    stream.close();
                    break;
                }
            }
            if state.is_barred || state.is_slowed || state.answers.is_full() {
                // It is read on when some of its answers have gone out.
                stream.hold();
            }
            if !stream.may_go_on() {
                break;
            }
        }
        read
    }

    /// Has the keys of a pipeline's next commands brought into the cache, all at a time, before the first of
    /// them is carried out: one after the other each would wait for its own. How many commands that are.
    #[inline]
    fn prefetch(&mut self, store: &Store, bytes: &[u8]) -> usize {
        let mut keys = [None; PREFETCH_COMMANDS_MAX];
        let mut count = 0;
        let mut read = 0;
        self.scout.reset();
        while count < keys.len()
            && let Ok(Parsed::Command { args, read: length }) = self.scout.next(&bytes[read..])
        {
            read += length;
            keys[count] = args.get(1).and_then(|key| store.prefetch(key));
            count += 1;
        }
        // A single one gains nothing.
        if count > 1 {
            keys[..count].iter().flatten().for_each(|key| store.prefetch_entry(*key));
        }
        count
    }

    /// Carries a command out, or sees to it.
    #[inline]
    fn run(
        &mut self,
        client: &mut ClientState,
        store: &mut Store,
        args: &Args<'_>,
        stream: &mut Stream<'_>,
        now_ms: u64,
    ) -> Taken {
        let spec = match self.admit(client, args) {
            Ok(spec) => spec,
            Err(error) => {
                self.totals.commands += 1;
                if let Some(bracket) = Bracket::of(args.name()).filter(|_| client.is_authenticated)
                {
                    self.run_bracket(client, bracket, stream);
                    return Taken::Yes;
                }
                if let Some(transaction) = &mut client.transaction {
                    transaction.refuse();
                }
                self.refuse(client, stream, &error);
                let is_named = |word: &[u8]| args.name().eq_ignore_ascii_case(word);
                // A browser was made to send this: what follows is not meant for a store. As in Redis.
                if is_named(b"post") || is_named(b"host:") {
                    if let Some(count) = self.server.http(now_ms) {
                        let from = client.address;
                        tracing::warn!(?from, count, "HTTP where the Redis protocol is spoken");
                    }
                    stream.close();
                }
                return Taken::Yes;
            }
        };
        if matches!(spec.run, Run::Everywhere(_)) && !client.answers.is_empty() {
            return Taken::WhenAnswered;
        }
        // Who writes faster than the disk does is slowed, and not refused.
        if spec.flags.writes && store.is_behind() {
            return Taken::WhenWritten;
        }
        self.totals.commands += 1;
        client.last_command = spec.name;
        client.last_command_at = self.local.now();
        if !spec.flags.slow && args.wire_bytes() < TIMED_BYTES_MIN {
            return self.run_admitted(client, store, (spec, args), stream, now_ms);
        }
        let began_at = stream.look_at_clock();
        let taken = self.run_admitted(client, store, (spec, args), stream, now_ms);
        self.server.slow_log.note(&Timed {
            args,
            took: stream.look_at_clock().since(began_at),
            now_ms,
            address: client.address,
            name: &client.name,
        });
        taken
    }

    #[inline]
    fn run_admitted(
        &mut self,
        client: &mut ClientState,
        store: &mut Store,
        (spec, args): (&'static Spec, &Args<'_>),
        stream: &mut Stream<'_>,
        now_ms: u64,
    ) -> Taken {
        let done = match spec.run {
            Run::Keyed(run) => match place_of_keys(store, spec, args) {
                Ok((_, Ok(_)))
                    if spec.flags.needs_memory
                        && !store.make_room(now_ms, || self.local.random()) =>
                {
                    Err(Error::OUT_OF_MEMORY)
                }
                Ok((slot, Ok(place))) => {
                    // A cluster's client reads where it has said so, as in Redis; any other wherever it is.
                    let to_head = client.is_on_own_port && !client.is_readonly;
                    let admitted = store.admit(place, spec.flags.writes || to_head);
                    let admitted = admitted.and_then(|()| {
                        self.run_keyed(client, store, (run, place), args, stream, now_ms)
                    });
                    admitted.map_err(|elsewhere| self.elsewhere(slot, elsewhere))
                }
                Ok((slot, Err(shard))) if client.is_on_own_port => Err(self.moved(slot, shard)),
                Ok((_, Err(shard))) => {
                    if spec.flags.writes && self.server.figures(shard).shards_behind.value() > 0 {
                        self.totals.commands -= 1;
                        return Taken::WhenWritten;
                    }
                    self.ask_shard(client, shard, Whole::Answer, args);
                    Ok(())
                }
                Err(_) if !client.is_on_own_port && split::may_be_split(spec) => {
                    if spec.flags.writes && self.server.is_some_shard_behind() {
                        self.totals.commands -= 1;
                        return Taken::WhenWritten;
                    }
                    let asked = self.ask_split(client, store, spec, args);
                    // What follows may be carried out here at once, and is not to overtake it.
                    client.is_barred = asked.is_ok();
                    asked
                }
                Err(error) => Err(error),
            },
            Run::Backup => {
                let mut text = Vec::new();
                let done = self.backup(client, store, args, &mut text);
                done.inspect(|()| self.answer(client, stream, |reply| reply.raw(&text)))
            }
            Run::Here(command) => {
                self.run_here(client, store, (command, args), stream, now_ms);
                Ok(())
            }
            Run::Everywhere(command) => {
                let asked = self.ask_everywhere(client, store, command, args);
                client.is_barred = asked.is_ok();
                asked
            }
        };
        if let Err(error) = done {
            self.refuse(client, stream, &error);
        }
        Taken::Yes
    }

    fn refuse(&mut self, client: &mut ClientState, stream: &mut Stream<'_>, error: &Error) {
        self.totals.count_error(error.0.as_bytes());
        self.answer(client, stream, |reply| reply.error(&*error.0));
    }

    /// The command, if it may be carried out.
    #[inline]
    fn admit(&self, client: &ClientState, args: &Args<'_>) -> Result<&'static Spec, Error> {
        let unknown = || Error::unknown(args.name(), args.iter().skip(1));
        let spec = spec::of(args).ok_or_else(unknown)?;
        spec.check_arity(args.len())?;
        if !client.is_authenticated && !spec.flags.without_auth {
            return Err(Error::NO_AUTH);
        }
        if client.transaction.is_some() && !matches!(spec.run, Run::Here(Here::Reset | Here::Quit))
        {
            return Err(Error::NO_TRANSACTIONS);
        }
        if !self.serving.get() && spec.run.needs_keys() {
            return Err(Error::LOADING);
        }
        Ok(spec)
    }

    /// Answers `MULTI` and its like.
    #[cold]
    fn run_bracket(&mut self, client: &mut ClientState, bracket: Bracket, stream: &mut Stream<'_>) {
        let mut text = Vec::new();
        if let Err(error) = bracket.run(client, &mut Reply::new(&mut text, client.protocol)) {
            Reply::new(&mut text, client.protocol).error(&*error.0);
        }
        self.totals.count_if_error(&text);
        self.answer(client, stream, |reply| reply.raw(&text));
    }

    #[inline]
    fn run_keyed(
        &mut self,
        client: &mut ClientState,
        store: &mut Store,
        (run, place): (RunKeyed, usize),
        args: &Args<'_>,
        stream: &mut Stream<'_>,
        now_ms: u64,
    ) -> Result<(), Elsewhere> {
        let mut keyspace = store.keyspace(place, now_ms);
        let is_direct = client.answers.is_empty();
        let output = if is_direct { stream.output() } else { &mut self.scratch };
        let before = output.len();
        if let Err(error) = run(&mut keyspace, args, &mut Reply::new(output, client.protocol)) {
            output.truncate(before);
            Reply::new(output, client.protocol).error(&*error.0);
            self.totals.count_error(error.0.as_bytes());
        }
        let seen = keyspace.seen();
        let gate = match store.gate(place, seen, || self.clock_of(stream)) {
            Ok(None) if is_direct => return Ok(()),
            Ok(gate) => gate,
            Err(elsewhere) => {
                let output = if is_direct { stream.output() } else { &mut self.scratch };
                output.truncate(before);
                return Err(elsewhere);
            }
        };
        let output = if is_direct { stream.output() } else { &mut self.scratch };
        client.answers.push(&output[before..], gate, &self.gathered);
        output.truncate(before);
        self.wait(client);
        Ok(())
    }

    /// What time it is now: later than whatever has come on this stream.
    fn clock_of(&mut self, stream: &Stream<'_>) -> Instant {
        self.latest = stream.look_at_clock();
        self.latest
    }

    fn run_here(
        &mut self,
        client: &mut ClientState,
        store: &Store,
        (command, args): (Here, &Args<'_>),
        stream: &mut Stream<'_>,
        now_ms: u64,
    ) {
        let mut text = Vec::new();
        let ended = here::run(command, client, &self.place(store, now_ms), args, &mut text);
        self.totals.count_if_error(&text);
        // In the protocol that it speaks now: HELLO answers in the one that it has chosen.
        self.answer(client, stream, |reply| reply.raw(&text));
        if ended == here::Ended::Closes {
            stream.close();
        }
    }

    /// What commands about the server are told.
    fn place<'a>(&'a self, store: &'a Store, now_ms: u64) -> Place<'a> {
        Place {
            server: &self.server,
            store,
            clients: &self.clients,
            addresses: &self.addresses,
            is_serving: self.serving.get(),
            now: self.local.now(),
            now_ms,
        }
    }

    /// Gives an answer that is known, in its turn.
    fn answer(
        &mut self,
        client: &mut ClientState,
        stream: &mut Stream<'_>,
        write: impl FnOnce(&mut Reply<'_>),
    ) {
        if client.answers.is_empty() {
            return write(&mut Reply::new(stream.output(), client.protocol));
        }
        write(&mut Reply::new(&mut self.scratch, client.protocol));
        client.answers.push(&self.scratch, None, &self.gathered);
        self.scratch.clear();
    }

    /// Puts a client among those whose answers wait, or who are slowed.
    fn wait(&mut self, client: &mut ClientState) {
        if !std::mem::replace(&mut client.is_waiting, true) {
            self.waiting.push(client.stream);
        }
    }
}

/// What became of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    /// It was carried out, or will be without more ado.
    Yes,
    /// It is to come again when everything before it has been answered.
    WhenAnswered,
    /// It is to come again when what has gathered for the disk is being written.
    WhenWritten,
}

/// The place of the partition that has the command's keys, or the shard that has it.
#[inline]
fn place_of_keys(
    store: &Store,
    spec: &Spec,
    args: &Args<'_>,
) -> Result<(Slot, Result<usize, ShardIndex>), Error> {
    let first = spec.keys.first as usize;
    let slot = Slot::of(args.at(first));
    if spec.keys.last != spec.keys.first {
        let mut others = spec.keys.among(args.len()).skip(1);
        if others.any(|place| Slot::of(args.at(place)) != slot) {
            return Err(Error::CROSS_SLOT);
        }
    }
    Ok((slot, store.place_of(slot)))
}
