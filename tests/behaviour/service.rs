//! A service whose methods do one odd thing each, and what they tell the test about it.

use crate::lab::{Block, Spec};
use bytes::Bytes;
use catena_engine::client::{CallBuilder, CallError};
use catena_engine::service::{Failure, OwnedRequest, Postcard, TypedMethod};
use catena_engine::{Answer, Client, ClientConfig, Local, MethodId, Responder, Router, Status};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Answers the payload, at once.
pub const ECHO: MethodId = MethodId::of("echo");
/// Answers the payload after a sleep of as many microseconds as its first four bytes say.
pub const SLEEP: MethodId = MethodId::of("sleep");
/// As [`ECHO`], and is counted.
pub const COUNT: MethodId = MethodId::of("count");
/// Is counted, and answers the payload once [`Probe::release`] was called. Runs under a guard.
pub const HOLD: MethodId = MethodId::of("hold");
/// Keeps the core busy for as many microseconds as the payload says.
pub const BLOCK: MethodId = MethodId::of("block");
/// Answers as many bytes as the payload says, and is counted.
pub const SOURCE: MethodId = MethodId::of("source");
/// Calls [`HOLD`] of the next server, under a guard.
pub const NEST: MethodId = MethodId::of("nest");
/// Answers how many microseconds are left until the deadline, 0 for none; asks the next server if
/// there is one.
pub const TIME_LEFT: MethodId = MethodId::of("time left");
/// Answers the number of the shard.
pub const WHERE: MethodId = MethodId::of("where");
/// Answers what came with the request: priority, repeat, metadata.
pub const HEAD: MethodId = MethodId::of("head");
/// Panics at once.
pub const PANIC: MethodId = MethodId::of("panic");
/// Panics in its future.
pub const PANIC_LATER: MethodId = MethodId::of("panic later");
/// Takes the duty to answer later, then panics.
pub const PANIC_WITH_DUTY: MethodId = MethodId::of("panic with duty");
/// Answers 10,000 bytes, then panics.
pub const PANIC_AFTER_ANSWER: MethodId = MethodId::of("panic after answer");
/// Drops its duty to answer.
pub const FORGET: MethodId = MethodId::of("forget");
/// Keeps its duty to answer until the next [`RELEASE`] on the same shard.
pub const KEEP: MethodId = MethodId::of("keep");
/// Answers everything that was kept, with its own payload, and then itself with their number.
pub const RELEASE: MethodId = MethodId::of("release");

pub type Repeat = TypedMethod<Postcard, (u32, String), Vec<String>>;
/// Answers the string as often as the number says; 0 is refused.
pub const REPEAT: Repeat = TypedMethod::new("repeat");
/// What [`REPEAT`] says to 0.
pub const NOTHING_TO_REPEAT: Status = Status::application(7);

/// What the methods tell, and wait for.
#[derive(Debug, Default)]
pub struct Probe {
    /// Requests whose handler began.
    pub executed: AtomicU64,
    /// Guards alive: handlers that are not over.
    pub running: AtomicU64,
    /// The most guards that were alive at a time.
    pub running_max: AtomicU64,
    blocked: AtomicU64,
    released: AtomicBool,
}

impl Probe {
    pub fn new() -> Arc<Probe> {
        Arc::default()
    }

    pub fn executed(&self) -> u64 {
        self.executed.load(SeqCst)
    }

    pub fn running(&self) -> u64 {
        self.running.load(SeqCst)
    }

    /// How often a core began to be kept busy.
    pub fn blocked(&self) -> u64 {
        self.blocked.load(SeqCst)
    }

    /// Lets everything that holds go on.
    pub fn release(&self) {
        self.released.store(true, SeqCst);
    }

    fn enter(self: &Arc<Self>) -> Guard {
        self.executed.fetch_add(1, SeqCst);
        let running = self.running.fetch_add(1, SeqCst) + 1;
        self.running_max.fetch_max(running, SeqCst);
        Guard(self.clone())
    }

    async fn held(&self, local: &Local) {
        while !self.released.load(SeqCst) {
            local.sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Lives as long as a handler.
struct Guard(Arc<Probe>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// A server of all methods, whose next server is the last of a chain.
pub fn spec(probe: &Arc<Probe>) -> Spec {
    spec_before(probe, None)
}

/// A server of all methods, which calls the one at `next`.
pub fn spec_before(probe: &Arc<Probe>, next: Option<SocketAddr>) -> Spec {
    let probe = probe.clone();
    Spec::new(move |local, block| {
        let router = inline(Router::new(), &probe, block);
        let router = asynchronous(router, &probe);
        chained(misbehaving(router), &probe, next, local)
    })
}

fn inline(router: Router, probe: &Arc<Probe>, block: &Block) -> Router {
    let (counted, sourcing, blocking) = (probe.clone(), probe.clone(), probe.clone());
    let block = block.clone();
    router
        .method("echo", |request, reply| reply.ok(request.payload()))
        .method("count", move |request, reply| {
            counted.executed.fetch_add(1, SeqCst);
            reply.ok(request.payload())
        })
        .method("block", move |request, reply| {
            blocking.blocked.fetch_add(1, SeqCst);
            block.block(micros(request.payload()));
            reply.ok(b"")
        })
        .method("source", move |request, reply| {
            sourcing.executed.fetch_add(1, SeqCst);
            let count = number(request.payload()) as usize;
            reply.write(|writer| {
                writer.extend(&pattern(count));
                Status::OK
            })
        })
        .method("head", |request, reply| {
            let head = request.head();
            let mut answer = head.priority.0.to_le_bytes().to_vec();
            answer.push(u8::from(head.repeat));
            answer.extend_from_slice(request.metadata().as_bytes());
            reply.ok(answer)
        })
        .method("where", |request, reply| reply.ok(&request.local().shard().0.to_le_bytes()[..]))
}

fn asynchronous(router: Router, probe: &Arc<Probe>) -> Router {
    let holding = probe.clone();
    router
        .method_async("sleep", |request: OwnedRequest| async move {
            request.local.sleep(micros(&request.payload)).await;
            Ok(request.payload)
        })
        .method_async("hold", move |request: OwnedRequest| {
            let (probe, guard) = (holding.clone(), holding.enter());
            async move {
                probe.held(&request.local).await;
                drop(guard);
                Ok(request.payload)
            }
        })
        .method_typed::<Postcard, _, _, _>(
            "repeat",
            |(count, text): (u32, String), _local| async move {
                match count {
                    0 => Err(Failure::new(NOTHING_TO_REPEAT, "nothing to repeat")),
                    count => Ok(vec![text; count as usize]),
                }
            },
        )
}

fn misbehaving(router: Router) -> Router {
    let kept: Rc<RefCell<Vec<Responder>>> = Rc::default();
    let keeping = kept.clone();
    router
        .method("panic", |_request, _reply| panic!("as it was asked to"))
        .method_async("panic later", |request: OwnedRequest| async move {
            request.local.sleep(Duration::from_micros(10)).await;
            if request.payload.is_empty() {
                panic!("as it was asked to");
            }
            Ok(request.payload)
        })
        .method("panic with duty", |_request, reply| {
            let (_answered, _responder) = reply.later();
            panic!("as it was asked to")
        })
        .method("panic after answer", |_request, reply| {
            let _answered = reply.ok(pattern(10_000));
            panic!("as it was asked to")
        })
        .method("forget", |_request, reply| {
            let (answered, responder) = reply.later();
            drop(responder);
            answered
        })
        .method("keep", move |_request, reply| {
            let (answered, responder) = reply.later();
            keeping.borrow_mut().push(responder);
            answered
        })
        .method("release", move |request, reply| {
            let released = std::mem::take(&mut *kept.borrow_mut());
            let count = released.len() as u32;
            for responder in released {
                responder.ok(request.to_payload_bytes());
            }
            reply.ok(&count.to_le_bytes()[..])
        })
}

fn chained(router: Router, probe: &Arc<Probe>, next: Option<SocketAddr>, local: &Local) -> Router {
    let client = next.map(|next| Client::new(local, next, ClientConfig::default()));
    let (nested, nesting) = (client.clone(), probe.clone());
    router
        .method_async("nest", move |request: OwnedRequest| {
            let (client, guard) =
                (nested.clone().expect("there is a next server"), nesting.enter());
            async move {
                let answer = client.call(HOLD, request.payload).await;
                drop(guard);
                Ok(answer?.payload)
            }
        })
        .method_async("time left", move |request: OwnedRequest| {
            let client = client.clone();
            async move {
                if let Some(client) = client {
                    return Ok(client.call(TIME_LEFT, b"").await?.payload);
                }
                let left =
                    request.deadline.map_or(0, |at| at.since(request.local.now()).as_micros());
                Ok(Bytes::copy_from_slice(&(left as u64).to_le_bytes()))
            }
        })
}

/// `count` bytes of which no two stretches are alike for long.
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count as u32).map(|n| (n.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect()
}

pub fn number(payload: &[u8]) -> u32 {
    u32::from_le_bytes(payload[..4].try_into().expect("the caller sends a number"))
}

fn micros(payload: &[u8]) -> Duration {
    Duration::from_micros(u64::from(number(payload)))
}

/// A number of microseconds as a payload.
pub fn micros_of(time: Duration) -> Vec<u8> {
    u32::try_from(time.as_micros()).expect("a test is over by then").to_le_bytes().to_vec()
}

/// What a call came to, in few words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Came {
    Ok(Vec<u8>),
    Status(Status),
    Failed(CallError),
}

impl Came {
    pub fn is_not_executed(&self) -> bool {
        match self {
            Came::Ok(_) => false,
            Came::Status(status) => status.is_not_executed(),
            Came::Failed(error) => error.is_not_executed(),
        }
    }
}

pub fn came(result: Result<Answer, CallError>) -> Came {
    match result {
        Ok(answer) => Came::Ok(answer.payload.to_vec()),
        Err(CallError::Status { status, .. }) => Came::Status(status),
        Err(error) => Came::Failed(error),
    }
}

/// Makes a call and says what it came to.
pub async fn call(call: CallBuilder) -> Came {
    came(call.await)
}
