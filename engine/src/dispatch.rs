//! Method id → handler.

use crate::application::{self, Application};
use crate::handler::{Answered, Handler, Reply, Request};
use crate::relay::{Relay, RelayConfig};
use crate::wire::frame::MethodId;
use std::fmt;

/// The handlers of one shard.
#[derive(Default)]
pub struct Router {
    /// Sorted by id; searched by halves, which for the tens of methods of a service stays within
    /// two cache lines.
    ids: Vec<MethodId>,
    methods: Vec<Method>,
    fallback: Option<Box<dyn Handler>>,
    relay: Option<(Box<dyn Relay>, RelayConfig)>,
    application: application::Slot,
}

struct Method {
    name: &'static str,
    handler: Box<dyn Handler>,
}

impl Router {
    /// A router without methods: every request is answered "unknown method".
    pub fn new() -> Self {
        Router::default()
    }

    /// Adds a method by name; its id on the wire is [`MethodId::of`] the name.
    ///
    /// # Panics
    /// If the name, or another name with the same id, is there already: two methods cannot share an
    /// id, and which of them was meant cannot be known.
    pub fn method(
        mut self,
        name: &'static str,
        handler: impl FnMut(Request<'_>, Reply<'_>) -> Answered + 'static,
    ) -> Self {
        self.insert(name, Box::new(handler));
        self
    }

    /// Adds a method whose handler is a value of its own type. Otherwise as [`Router::method`].
    ///
    /// # Panics
    /// As [`Router::method`].
    pub fn insert(&mut self, name: &'static str, handler: Box<dyn Handler>) {
        let id = MethodId::of(name);
        match self.ids.binary_search(&id) {
            Ok(at) => panic!(
                "method {name:?} has the id of {:?} ({:#010x}); rename one of them",
                self.methods[at].name, id.0
            ),
            Err(at) => {
                self.ids.insert(at, id);
                self.methods.insert(at, Method { name, handler });
            }
        }
    }

    /// Serves every method that has no handler of its own, instead of "unknown method".
    ///
    /// # Panics
    /// If there is a fallback or a relay already.
    pub fn fallback(
        mut self,
        handler: impl FnMut(Request<'_>, Reply<'_>) -> Answered + 'static,
    ) -> Self {
        assert!(self.fallback.is_none() && self.relay.is_none(), "a request goes one way");
        self.fallback = Some(Box::new(handler));
        self
    }

    /// Passes every method that has no handler of its own on to other servers, whatever its route: see
    /// [`crate::relay`].
    ///
    /// # Panics
    /// If there is a relay or a fallback already, or a value of `config` is out of bounds, which
    /// [`RelayConfig::validate`] tells beforehand.
    pub fn relay(mut self, relay: impl Relay + 'static, config: RelayConfig) -> Self {
        assert!(self.fallback.is_none() && self.relay.is_none(), "a request goes one way");
        config.validate().unwrap_or_else(|error| panic!("a relay cannot be made: {error}"));
        self.relay = Some((Box::new(relay), config));
        self
    }

    /// Runs `application` on the shard, beside the methods.
    ///
    /// # Panics
    /// If there is one already.
    pub fn application(mut self, application: impl Application + 'static) -> Self {
        assert!(self.application.is_none(), "a shard runs one application");
        self.application = Some(Box::new(application));
        self
    }

    /// True if requests of this method are passed on, once there is a relay.
    #[inline]
    pub(crate) fn is_passed_on(&self, id: MethodId) -> bool {
        self.ids.is_empty() || self.ids.binary_search(&id).is_err()
    }

    /// The relay, for the shard to use.
    pub(crate) fn take_relay(&mut self) -> Option<(Box<dyn Relay>, RelayConfig)> {
        self.relay.take()
    }

    /// The application, for the shard to run.
    pub(crate) fn take_application(&mut self) -> application::Slot {
        self.application.take()
    }

    /// The handler for a method id: its own, or the fallback.
    #[inline]
    pub fn find(&mut self, id: MethodId) -> Option<&mut dyn Handler> {
        match self.ids.binary_search(&id) {
            Ok(at) => Some(self.methods[at].handler.as_mut()),
            Err(_) => Some(self.fallback.as_mut()?.as_mut()),
        }
    }

    /// The name under which a method was added.
    pub fn name(&self, id: MethodId) -> Option<&'static str> {
        let at = self.ids.binary_search(&id).ok()?;
        Some(self.methods[at].name)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.methods.iter().map(|method| method.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_found_by_the_id_of_their_name() {
        let mut router = Router::new()
            .method("echo", |request, reply| reply.ok(request.payload()))
            .method("sink", |_, reply| reply.ok(b""));
        assert_eq!(router.name(MethodId::of("echo")), Some("echo"));
        assert!(router.find(MethodId::of("sink")).is_some());
        assert!(router.find(MethodId::of("other")).is_none());
    }

    #[test]
    fn a_fallback_serves_what_nothing_else_does() {
        let mut router = Router::new()
            .method("echo", |request, reply| reply.ok(request.payload()))
            .fallback(|_, reply| reply.ok(b""));
        assert!(router.find(MethodId::of("other")).is_some());
        assert!(router.name(MethodId::of("other")).is_none());
    }

    #[test]
    #[should_panic(expected = "rename one of them")]
    fn a_method_cannot_be_there_twice() {
        let _ = Router::new()
            .method("echo", |request, reply| reply.ok(request.payload()))
            .method("echo", |request, reply| reply.ok(request.payload()));
    }
}
