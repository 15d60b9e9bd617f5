//! Typed services on top of handlers: async handlers, and codecs for their arguments.

use crate::client::{CallBuilder, CallError, Client};
use crate::dispatch::Router;
use crate::handler::{Answered, Reply, Request};
use crate::local::Local;
use crate::time::Instant;
use crate::wire::frame::{MethodId, RequestHead};
use crate::wire::framer::Payload;
use crate::wire::metadata::MetadataBuf;
use crate::wire::status::Status;
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A request that an async handler owns.
#[derive(Clone, Debug)]
pub struct OwnedRequest {
    /// The payload.
    pub payload: Bytes,
    /// The metadata.
    pub metadata: MetadataBuf,
    /// Call id, method, priority, route, repeat.
    pub head: RequestHead,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// The shard that this runs on.
    pub local: Local,
}

impl OwnedRequest {
    fn of(request: &Request<'_>) -> Self {
        OwnedRequest {
            payload: request.to_payload_bytes(),
            metadata: MetadataBuf::copy_of(request.metadata()),
            head: *request.head(),
            deadline: request.deadline(),
            local: request.local().clone(),
        }
    }
}

/// A refusal or failure that a handler answers with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The status; must not be OK.
    pub status: Status,
    /// For people.
    pub text: String,
}

impl Failure {
    /// A failure with this status and text.
    pub fn new(status: Status, text: impl Into<String>) -> Self {
        Failure { status, text: text.into() }
    }
}

impl From<CallError> for Failure {
    /// A nested call's failure, seen from outside: an internal error, except that "deadline passed"
    /// stays what it is.
    fn from(error: CallError) -> Self {
        let status = match error {
            CallError::DeadlinePassed | CallError::ExpiredUnsent => Status::DEADLINE_PASSED,
            _ => Status::INTERNAL,
        };
        Failure { status, text: format!("a call on behalf of this request failed: {error}") }
    }
}

impl Router {
    /// Adds an async method. The future runs on this shard and is dropped, with every call it has in
    /// flight, when its caller cancels, is gone, or has waited past its deadline.
    ///
    /// # Panics
    /// As [`Router::method`].
    pub fn method_async<F, R>(
        self,
        name: &'static str,
        handler: impl Fn(OwnedRequest) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = Result<R, Failure>> + 'static,
        R: Into<Payload<'static>>,
    {
        let handler = Rc::new(handler);
        self.method(name, move |request: Request<'_>, reply: Reply<'_>| {
            let request_owned = OwnedRequest::of(&request);
            let handler = handler.clone();
            serve_async(request.local(), reply, async move {
                handler(request_owned).await.map(Into::into)
            })
        })
    }

    /// Adds a typed method: `C` decodes the argument before the handler begins (a payload it cannot
    /// read is answered [`Status::MALFORMED`], not executed) and encodes its result.
    ///
    /// # Panics
    /// As [`Router::method`].
    pub fn method_typed<C, A, R, F>(
        self,
        name: &'static str,
        handler: impl Fn(A, Local) -> F + 'static,
    ) -> Self
    where
        C: Codec<A> + Codec<R> + 'static,
        A: 'static,
        R: 'static,
        F: Future<Output = Result<R, Failure>> + 'static,
    {
        self.method(name, move |request: Request<'_>, reply: Reply<'_>| {
            let argument = match <C as Codec<A>>::decode(request.payload()) {
                Ok(argument) => argument,
                Err(error) => return reply.fail(Status::MALFORMED, &error.to_string()),
            };
            let result = handler(argument, request.local().clone());
            serve_async(request.local(), reply, async move {
                let result = result.await?;
                let mut bytes = Vec::new();
                <C as Codec<R>>::encode(&result, &mut bytes)
                    .map_err(|error| Failure::new(Status::INTERNAL, error.to_string()))?;
                Ok(Payload::from(bytes))
            })
        })
    }
}

/// Runs `work` on the shard; its result is the answer.
fn serve_async(
    local: &Local,
    reply: Reply<'_>,
    work: impl Future<Output = Result<Payload<'static>, Failure>> + 'static,
) -> Answered {
    let (answered, responder) = reply.later();
    let key = responder.key();
    let task = local.spawn(async move {
        match Contained(Box::pin(work)).await {
            Ok(Ok(payload)) => responder.answer(Status::OK, payload),
            Ok(Err(failure)) => responder.fail(failure.status, &failure.text),
            Err(Panicked) => responder.fail(Status::INTERNAL, "the handler panicked"),
        }
    });
    local.attach(key, task);
    answered
}

/// Turns a panic of its future into a value.
struct Contained<F: ?Sized>(Pin<Box<F>>);

struct Panicked;

impl<F: Future + ?Sized> Future for Contained<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let poll = AssertUnwindSafe(|| self.0.as_mut().poll(context));
        match std::panic::catch_unwind(poll) {
            Ok(poll) => poll.map(Ok),
            Err(_panic) => Poll::Ready(Err(Panicked)),
        }
    }
}

/// How values of type `T` become bytes.
pub trait Codec<T> {
    /// Appends the bytes of `value`.
    ///
    /// # Errors
    /// If the value has no encoding.
    fn encode(value: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads a value; all of `bytes` belongs to it.
    ///
    /// # Errors
    /// If the bytes are not such a value.
    fn decode(bytes: &[u8]) -> Result<T, CodecError>;
}

/// Why a value could not be encoded or decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CodecError(String);

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read or write this value: {}", self.0)
    }
}

impl std::error::Error for CodecError {}

/// Bytes as they are.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl Codec<Bytes> for Raw {
    fn encode(value: &Bytes, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
        bytes.extend_from_slice(value);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(bytes))
    }
}

/// Any serde type in postcard's compact form (feature `postcard`).
#[cfg(feature = "postcard")]
#[derive(Clone, Copy, Debug)]
pub struct Postcard;

#[cfg(feature = "postcard")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Codec<T> for Postcard {
    fn encode(value: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
        let before = std::mem::take(bytes);
        *bytes =
            postcard::to_extend(value, before).map_err(|error| CodecError(error.to_string()))?;
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        match postcard::take_from_bytes(bytes) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(CodecError(format!("{} bytes too many", rest.len()))),
            Err(error) => Err(CodecError(error.to_string())),
        }
    }
}

/// One method of a service, as a client calls it: the name, the argument, the result.
#[derive(Debug)]
pub struct TypedMethod<C, A, R> {
    id: MethodId,
    types: PhantomData<fn(C, A) -> R>,
}

impl<C: Codec<A> + Codec<R>, A, R> TypedMethod<C, A, R> {
    /// The method with this name.
    pub const fn new(name: &str) -> Self {
        TypedMethod { id: MethodId::of(name), types: PhantomData }
    }

    /// Calls it. For a timeout, a priority or a route, set them in `options`.
    ///
    /// # Errors
    /// [`TypedCallError`]: the call failed, or one of the two values has no encoding.
    pub async fn call(
        &self,
        client: &Client,
        argument: &A,
        options: impl FnOnce(CallBuilder) -> CallBuilder,
    ) -> Result<R, TypedCallError> {
        let mut bytes = Vec::new();
        <C as Codec<A>>::encode(argument, &mut bytes).map_err(TypedCallError::Argument)?;
        let answer = options(client.call(self.id, bytes)).await.map_err(TypedCallError::Call)?;
        <C as Codec<R>>::decode(&answer.payload).map_err(TypedCallError::Answer)
    }
}

/// Why a typed call has no result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TypedCallError {
    /// The argument has no encoding; nothing was sent.
    Argument(CodecError),
    /// The call failed.
    Call(CallError),
    /// The server answered with something else than the result type.
    Answer(CodecError),
}

impl fmt::Display for TypedCallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TypedCallError::Argument(error) => write!(f, "the argument: {error}"),
            TypedCallError::Call(error) => error.fmt(f),
            TypedCallError::Answer(error) => write!(f, "the answer: {error}"),
        }
    }
}

impl std::error::Error for TypedCallError {}
