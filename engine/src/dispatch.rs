//! Method id → handler.

use crate::handler::{Answered, Handler, Reply, Request};
use crate::wire::frame::MethodId;
use std::fmt;

/// The handlers of one shard.
#[derive(Default)]
pub struct Router {
    /// Sorted by id; searched by halves, which for the tens of methods of a service stays within
    /// two cache lines.
    ids: Vec<MethodId>,
    methods: Vec<Method>,
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

    /// The handler for a method id.
    #[inline]
    pub fn find(&mut self, id: MethodId) -> Option<&mut dyn Handler> {
        let at = self.ids.binary_search(&id).ok()?;
        Some(self.methods[at].handler.as_mut())
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
    #[should_panic(expected = "rename one of them")]
    fn a_method_cannot_be_there_twice() {
        let _ = Router::new()
            .method("echo", |request, reply| reply.ok(request.payload()))
            .method("echo", |request, reply| reply.ok(request.payload()));
    }
}
