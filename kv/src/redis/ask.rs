//! Commands that other shards carry out: asking, carrying out, telling.

use super::Redis;
use super::bundle::{AskKey, Asked, Bundle, Commands, Whole};
use super::client::ClientState;
use super::debts::Share;
use super::everywhere::{self, Cursor, Gathering, KeysWalk, Part};
use super::hand_over::{Asker, Waiting};
use super::here::cluster::host_of;
use super::here::{client_kill, client_list};
use super::place_of_keys;
use super::split::{self, Parts, Split};
use crate::command::error::Error;
use crate::command::spec::{self, Everywhere, Run, Spec};
use crate::limits::answer_bytes_max;
use crate::resp::{Args, Parsed, Parser, Protocol, Reply};
use crate::slot::{Partition, Slot, shard_of};
use crate::store::Store;
use crate::store::gate::{Elsewhere, Gate};
use catena_engine::Local;
use catena_engine::shard_index::ShardIndex;
use catena_engine::stream::StreamId;
use catena_engine::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

/// Parts of `KEYS` that were walked to their end, and for whom.
pub(super) type Walked = Rc<RefCell<Vec<(Asker, Vec<u8>)>>>;

/// The walks of `KEYS` on a shard, one behind the other.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Walks {
    begun: u64,
    ended: u64,
}

impl Walks {
    fn take_turn(&mut self) -> u64 {
        self.begun += 1;
        self.begun - 1
    }

    fn is_turn_of(&self, turn: u64) -> bool {
        self.ended == turn
    }

    fn end_turn(&mut self) {
        self.ended += 1;
    }
}

/// Commands that a shard has asked for, from a place on: those before it are carried out.
#[derive(Debug)]
pub(super) struct Postponed {
    commands: Commands,
    place: usize,
}

/// What other shards wait for, at the end of a turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) enum More {
    #[default]
    Nothing,
    /// What they were told before has to go on to clients.
    WhenReadOn,
    /// There was enough for one turn.
    NextTurn,
}

/// How soon it is looked again whether it has: nobody says so, and 8 MiB take about as long to be copied.
const READ_ON_INTERVAL: Duration = Duration::from_millis(1);

/// As the shard that asks.
impl Redis {
    /// Has the command carried out by the shard that has its keys. The answer comes in its turn.
    pub(super) fn ask_shard(
        &mut self,
        client: &mut ClientState,
        shard: ShardIndex,
        whole: Whole,
        args: &Args<'_>,
    ) {
        let ticket = client.answers.expect();
        let ask = self.hand_over.wait(Waiting::Client(client.stream, ticket, client.protocol));
        self.hand_over.ask(shard, ask, client.protocol, whole, args);
        self.wait(client);
    }

    /// Has each shard do its part; on a shard's own port that shard alone.
    pub(super) fn ask_everywhere(
        &mut self,
        client: &mut ClientState,
        store: &Store,
        command: Everywhere,
        args: &Args<'_>,
    ) -> Result<(), Error> {
        let here = self.local.shard();
        if command == Everywhere::Scan {
            let partitions = store.config().partitions;
            let cursor = Cursor::parse(args.at(1))?.partition;
            let (shard, whole) = match client.is_on_own_port {
                true => (here, Whole::Part),
                // One that is no partition's is past the last.
                false if cursor.0 >= partitions.count() => (here, Whole::Answer),
                false => (shard_of(cursor, partitions, self.local.shard_count()), Whole::Answer),
            };
            self.ask_shard(client, shard, whole, args);
            return Ok(());
        }
        everywhere::check(command, args)?;
        let ticket = client.answers.expect();
        let waiting = Waiting::Client(client.stream, ticket, client.protocol);
        let waiting = self.hand_over.wait(waiting);
        let shards = match client.is_on_own_port {
            true => here.0..here.0 + 1,
            false => 0..self.local.shard_count(),
        };
        let gathering = Gathering::new(command, waiting, shards.len());
        let whole = self.hand_over.wait(Waiting::Whole(gathering));
        for shard in shards.map(ShardIndex) {
            let part = self.hand_over.wait(Waiting::Part(whole));
            self.hand_over.ask(shard, part, client.protocol, Whole::Part, args);
        }
        self.wait(client);
        Ok(())
    }

    /// Has each shard do what it can of a command whose keys are in several slots.
    pub(super) fn ask_split(
        &mut self,
        client: &mut ClientState,
        store: &Store,
        spec: &Spec,
        args: &Args<'_>,
    ) -> Result<(), Error> {
        let here = self.local.shard();
        let shard_of = |key: &[u8]| store.place_of(Slot::of(key)).err().unwrap_or(here);
        let value_bytes_max = store.config().value_bytes_max;
        let bounds = (self.local.shard_count(), value_bytes_max);
        let mut parts = Parts::of(spec, args, bounds, shard_of)?;
        let ticket = client.answers.expect();
        let waiting = Waiting::Client(client.stream, ticket, client.protocol);
        let waiting = self.hand_over.wait(waiting);
        let bytes_max = answer_bytes_max(value_bytes_max);
        let split = Split::new(spec, &mut parts, waiting, bytes_max);
        let whole = self.hand_over.wait(Waiting::Split(split));
        for (shard, texts) in (0..).map(ShardIndex).zip(&parts.texts) {
            for (place, text) in texts.iter().enumerate() {
                let part = split::Part { shard, place };
                let part = self.hand_over.wait(Waiting::SplitPart(whole, part));
                self.hand_over.ask_each(shard, part, client.protocol, text);
            }
        }
        self.wait(client);
        Ok(())
    }

    /// Where a cluster's client finds a slot.
    pub(super) fn moved(&self, slot: Slot, shard: ShardIndex) -> Error {
        let address = self.addresses.shards.get(shard.index());
        let host = |address: &SocketAddr| host_of(&self.server, *address);
        let (host, port) = address.map_or((String::new(), 0), |at| (host(at), at.port()));
        Error::of(format!("MOVED {} {host}:{port}", slot.number()))
    }

    /// Who has the keys of a slot that are not for this node.
    pub(super) fn elsewhere(&self, slot: Slot, Elsewhere(head): Elsewhere) -> Error {
        let address = || {
            let view = self.server.view()?;
            let partitions = view.config().partitions;
            let redis = &view.node(head?)?.redis;
            let shards = u16::try_from(redis.len()).ok()?;
            let shard = shard_of(Partition::of(slot, partitions), partitions, shards);
            redis.get(shard.index()).copied()
        };
        match address() {
            None => Error::of("CLUSTERDOWN it is not known yet who has the keys of this slot"),
            Some(address) => {
                let (host, port) = (address.ip(), address.port());
                Error::of(format!("MOVED {} {host}:{port}", slot.number()))
            }
        }
    }

    /// A message has come: commands to carry out, or answers.
    pub(super) fn take_bundle(&mut self, from: ShardIndex, mut message: Box<Bundle>) {
        let is_asked = matches!(*message, Bundle::Asked(_));
        let commands = message.take();
        if !is_asked {
            for (ask, text) in commands.told() {
                let share = self.hand_over.has_come(from, text, &self.gathered);
                self.told(ask, text, share);
            }
            self.bound_gathered();
            return self.hand_over.keep(message, commands);
        }
        // What the same shard has asked before has its turn before.
        let is_next = self.postponed[from.index()].is_empty();
        let place = if is_next { self.carry_out(from, &commands, 0) } else { 0 };
        if place == commands.len() {
            return self.hand_over.keep(message, commands);
        }
        self.postponed[from.index()].push_back(Postponed { commands, place });
        self.hand_over.keep(message, Commands::default());
    }

    /// An answer has come.
    fn told(&mut self, ask: AskKey, text: &[u8], share: Option<Share>) {
        match self.hand_over.waiting(ask) {
            None => {}
            Some(Waiting::Client(stream, ticket, _)) => {
                let client = self.clients.get_mut(stream.slot()).and_then(Option::as_deref_mut);
                let client = client.filter(|client| client.state.stream == stream);
                if let Some(client) = client {
                    self.totals.count_if_error(text);
                    client.state.answers.come(ticket, text.to_vec(), share);
                }
            }
            Some(Waiting::Part(whole)) => self.told_part(whole, text, share),
            Some(Waiting::SplitPart(whole, part)) => self.told_split(whole, part, text, share),
            Some(Waiting::Whole(_) | Waiting::Split(_)) => {
                unreachable!("a whole is asked of nobody")
            }
        }
    }

    /// Ends the client for which most has come and waits, if that is too much for all together.
    pub(super) fn bound_gathered(&mut self) {
        if self.gathered.bytes() <= self.server.config.client_bytes_max || !self.ending.is_empty() {
            return;
        }
        let clients = self.clients.iter().flatten();
        let clients = clients.map(|it| (it.state.stream, it.state.answers.known_bytes()));
        let mut by_client: BTreeMap<usize, (StreamId, usize)> = BTreeMap::new();
        for (stream, bytes) in clients.chain(self.hand_over.part_bytes()) {
            by_client.entry(stream.slot()).or_insert((stream, 0)).1 += bytes;
        }
        let holding = by_client.into_values().filter(|(_, bytes)| *bytes > 0);
        let largest = holding.max_by_key(|(_, bytes)| *bytes);
        if let Some((stream, bytes)) = largest {
            let all_bytes = self.gathered.bytes();
            tracing::warn!(bytes, all_bytes, "too much waits for clients; who has most is ended");
            self.ending.push((stream, None));
            self.hand_over.forget(stream);
        }
    }

    /// A part has come. One that begins as errors do is the answer to all, and so is one that is lost.
    fn told_part(&mut self, whole: AskKey, text: &[u8], share: Option<Share>) {
        let random = self.local.random();
        let Some(gathering) = self.hand_over.gathering(whole) else { return };
        let waiting = gathering.waiting;
        if matches!(text.first(), None | Some(b'-')) {
            self.hand_over.waiting(whole);
            return self.told(waiting, text, None);
        }
        if !gathering.add(text, random, share) {
            return;
        }
        let Some(Waiting::Whole(gathering)) = self.hand_over.waiting(whole) else { return };
        self.told_whole(waiting, |reply| gathering.finish(reply));
    }

    /// A shard has done its part of a command whose keys are in several slots.
    fn told_split(&mut self, whole: AskKey, part: split::Part, text: &[u8], share: Option<Share>) {
        let Some(split) = self.hand_over.split(whole) else { return };
        if text.is_empty() {
            let waiting = split.waiting;
            self.hand_over.waiting(whole);
            return self.told(waiting, text, None);
        }
        if split.add(part, text, share)
            && let Some(Waiting::Split(split)) = self.hand_over.waiting(whole)
        {
            self.told_whole(split.waiting, |reply| split.finish(reply));
        }
    }

    /// All parts have come.
    fn told_whole(&mut self, waiting: AskKey, finish: impl FnOnce(&mut Reply<'_>)) {
        let Some(Waiting::Client(stream, ticket, protocol)) = self.hand_over.waiting(waiting)
        else {
            return;
        };
        let mut answer = Vec::new();
        finish(&mut Reply::new(&mut answer, protocol));
        let again = self.hand_over.wait(Waiting::Client(stream, ticket, protocol));
        let share = self.gathered.share(answer.len());
        self.told(again, &answer, share);
    }
}

/// As the shard that is asked.
impl Redis {
    /// Sees to another turn, if there is more to tell than was good for this one: the next, or a later one if
    /// clients of others have to read first. What waits for commits has one when they come.
    pub(super) fn go_on_telling(&mut self) {
        if self.hand_over.holds_much() {
            return;
        }
        let again = |local: &Local| local.send(local.shard(), Box::<Bundle>::default());
        match std::mem::take(&mut self.has_more_to_tell) {
            More::Nothing => {}
            More::NextTurn => again(&self.local),
            More::WhenReadOn if self.looks_again.replace(true) => {}
            More::WhenReadOn => {
                let (local, looks_again) = (self.local.clone(), self.looks_again.clone());
                let waiting = async move {
                    local.sleep(READ_ON_INTERVAL).await;
                    looks_again.set(false);
                    again(&local);
                };
                self.local.spawn(waiting).detach();
            }
        }
    }

    /// Goes on with what had to wait: for the log, or for the answers before to have gone on. Those of one
    /// shard do not wait for those of another: two shards that owe each other much would for ever.
    pub(super) fn carry_out_postponed(&mut self) {
        for from in (0..self.local.shard_count()).map(ShardIndex) {
            while let Some(mut postponed) = self.postponed[from.index()].pop_front() {
                let Postponed { ref commands, place } = postponed;
                postponed.place = self.carry_out(from, commands, place);
                if postponed.place < postponed.commands.len() {
                    self.postponed[from.index()].push_front(postponed);
                    break;
                }
            }
        }
    }

    /// Carries commands out from a place on, up to the first that writes while the log is behind, or until
    /// the answers are many bytes. Where that is.
    fn carry_out(&mut self, from: ShardIndex, commands: &Commands, place: usize) -> usize {
        let store = self.store.clone();
        let mut store = store.borrow_mut();
        let now_ms = (self.clock)();
        let mut parser = std::mem::take(&mut self.asked_parser);
        let done = (place..commands.len()).find(|place| {
            let may_last = || self.server.is_some_log_hindered();
            if self.hand_over.has_told_much(from) || self.hand_over.holds_much() {
                self.has_more_to_tell = More::NextTurn;
                return true;
            }
            if self.hand_over.is_owed_much(from, may_last) {
                self.has_more_to_tell = self.has_more_to_tell.max(More::WhenReadOn);
                return true;
            }
            let asked = commands.asked(*place);
            let asker = Asker { shard: from, ask: asked.ask };
            !self.carry_out_one(&mut store, &mut parser, asker, &asked, now_ms)
        });
        self.asked_parser = parser;
        done.unwrap_or(commands.len())
    }

    /// False: it has to wait for the log.
    fn carry_out_one(
        &mut self,
        store: &mut Store,
        parser: &mut Parser,
        asker: Asker,
        asked: &Asked<'_>,
        now_ms: u64,
    ) -> bool {
        let Ok(Parsed::Command { args, .. }) = parser.next(asked.text) else {
            unreachable!("what a shard asks, it has written itself")
        };
        let spec = spec::of(&args).expect("the shard that asks has found it");
        if spec.flags.writes && store.is_behind() {
            return false;
        }
        if asked.whole == Whole::Each {
            self.carry_out_each(store, parser, asker, asked, now_ms);
            return true;
        }
        let mut text = std::mem::take(&mut self.scratch);
        let done = match spec.run {
            run if run.needs_keys() && !self.serving.get() => Err(Error::LOADING),
            Run::Keyed(_) => self.keyed_for_other(store, spec, &args, asked, now_ms, &mut text),
            Run::Everywhere(Everywhere::Scan) => {
                let ends_here = asked.whole == Whole::Part;
                let mut reply = Reply::new(&mut text, asked.protocol);
                let done = everywhere::scan(store, &args, ends_here, now_ms, &mut reply);
                done.map(|()| Some(Vec::new()))
            }
            Run::Everywhere(Everywhere::ClientList) => {
                let list = client_list::list(&self.place(store, now_ms), &args);
                list.map(|(count, lines)| {
                    everywhere::begin_part(&mut text, count);
                    text.extend_from_slice(lines.as_bytes());
                    Some(Vec::new())
                })
            }
            Run::Everywhere(Everywhere::ClientKill | Everywhere::ClientKillOne) => {
                let own = self.hand_over.client_of_part(asker, self.local.shard());
                client_kill::meant(&self.place(store, now_ms), &args, own).map(|meant| {
                    everywhere::begin_part(&mut text, meant.len() as u64);
                    self.ending.extend(meant.into_iter().map(|stream| (stream, own)));
                    Some(Vec::new())
                })
            }
            Run::Everywhere(command) => {
                self.part_for_other(store, command, &args, asker, &mut text)
            }
            Run::Here(_) | Run::Backup => {
                unreachable!("these are carried out where the connection is")
            }
        };
        match done {
            Ok(Some(gates)) if gates.is_empty() => self.hand_over.tell(asker, &text),
            Ok(Some(gates)) => self.hand_over.tell_after(asker, gates, &text),
            Ok(None) => {}
            Err(error) => {
                text.clear();
                Reply::new(&mut text, asked.protocol).error(&*error.0);
                self.hand_over.tell(asker, &text);
            }
        }
        text.clear();
        self.scratch = text;
        true
    }
}

/// The parts of carrying out.
impl Redis {
    /// Commands of one name on keys of this shard, each as if it had come alone.
    fn carry_out_each(
        &mut self,
        store: &mut Store,
        parser: &mut Parser,
        asker: Asker,
        asked: &Asked<'_>,
        now_ms: u64,
    ) {
        let bytes_max = answer_bytes_max(store.config().value_bytes_max);
        let mut text = std::mem::take(&mut self.scratch);
        let (mut gates, mut rest): (Vec<Gate>, _) = (Vec::new(), asked.text);
        while let Ok(Parsed::Command { args, read }) = parser.next(rest) {
            rest = &rest[read..];
            let spec = spec::of(&args).expect("the shard that asks has found it");
            let before = text.len();
            let done = match self.serving.get() {
                true => self.keyed_for_other(store, spec, &args, asked, now_ms, &mut text),
                false => Err(Error::LOADING),
            };
            let is_too_long = text.len() > bytes_max;
            let done = if is_too_long { Err(Error::ANSWER_TOO_LONG) } else { done };
            match done {
                Ok(behind) => gates.extend(behind.into_iter().flatten()),
                Err(error) => {
                    text.truncate(before);
                    Reply::new(&mut text, asked.protocol).error(&*error.0);
                }
            }
            if is_too_long {
                break;
            }
        }
        match gates.is_empty() {
            true => self.hand_over.tell(asker, &text),
            false => self.hand_over.tell_after(asker, gates, &text),
        }
        text.clear();
        self.scratch = text;
    }

    /// A command on keys of this shard. The gates that its answer waits for.
    fn keyed_for_other(
        &self,
        store: &mut Store,
        spec: &Spec,
        args: &Args<'_>,
        asked: &Asked<'_>,
        now_ms: u64,
        text: &mut Vec<u8>,
    ) -> Result<Option<Vec<Gate>>, Error> {
        let Run::Keyed(run) = spec.run else { unreachable!("its keys are here") };
        let (slot, Ok(place)) = place_of_keys(store, spec, args)? else {
            unreachable!("all shards agree on where keys are")
        };
        if spec.flags.needs_memory && !store.make_room(now_ms, || self.local.random()) {
            return Err(Error::OUT_OF_MEMORY);
        }
        let elsewhere = |elsewhere| self.elsewhere(slot, elsewhere);
        store.admit(place, spec.flags.writes).map_err(elsewhere)?;
        let mut keyspace = store.keyspace(place, now_ms);
        let before = text.len();
        if let Err(error) = run(&mut keyspace, args, &mut Reply::new(text, asked.protocol)) {
            // It tells of what it has seen, and waits for that as any answer does.
            text.truncate(before);
            Reply::new(text, asked.protocol).error(&*error.0);
        }
        let seen = keyspace.seen();
        // Stamped after the message with the command was taken.
        let gate = store.gate(place, seen, || self.local.now()).map_err(elsewhere)?;
        Ok(Some(gate.into_iter().collect()))
    }

    /// This shard's part of a command about all keys. `None`: it is told when a walk has ended.
    fn part_for_other(
        &self,
        store: &mut Store,
        command: Everywhere,
        args: &Args<'_>,
        asker: Asker,
        text: &mut Vec<u8>,
    ) -> Result<Option<Vec<Gate>>, Error> {
        match everywhere::part(command, args, store, (self.local.random(), (self.clock)()), text)? {
            Part::Known(entries) => {
                let open = |(place, index): &(usize, u64)| store.committed(*place) >= *index;
                let waits = entries.into_iter().filter(|entry| !open(entry));
                Ok(Some(waits.map(|(place, index)| store.gate_of(place, index)).collect()))
            }
            Part::Walk(pattern) => {
                self.walk(pattern, asker);
                Ok(None)
            }
        }
    }

    /// Walks over all keys of this shard, a piece a turn, so that others are served in between.
    fn walk(&self, pattern: Vec<u8>, asker: Asker) {
        let (store, walked, walks) = (self.store.clone(), self.walked.clone(), self.walks.clone());
        let now_ms = (self.clock)();
        let mut walk = KeysWalk::new(pattern);
        // One at a time: each may gather much.
        let turn = walks.borrow_mut().take_turn();
        let walking = poll_fn(move |context| {
            let is_its_turn = walks.borrow().is_turn_of(turn);
            match is_its_turn.then(|| walk.step(&store.borrow(), now_ms)).flatten() {
                Some(part) => {
                    walks.borrow_mut().end_turn();
                    Poll::Ready(part)
                }
                None => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        });
        let ended = async move {
            let part = walking.await.unwrap_or_else(|error| {
                let mut text = Vec::new();
                Reply::new(&mut text, Protocol::Resp2).error(&*error.0);
                text
            });
            walked.borrow_mut().push((asker, part));
        };
        self.local.spawn(ended).detach();
    }

    /// Tells the walks that have ended.
    pub(super) fn tell_walked(&mut self) {
        for (asker, text) in self.walked.borrow_mut().drain(..) {
            self.hand_over.tell(asker, &text);
        }
    }

    /// Tells what waited for commits.
    pub(super) fn tell_committed(&mut self) {
        let (store, now) = (self.store.borrow(), self.local.now());
        self.hand_over.release(|gate| store.gate_state(gate, now));
    }
}
