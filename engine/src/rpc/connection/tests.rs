//! A pair of connections, what must happen between them, and what must happen to a bad peer.

mod calls;
mod ending;
mod liveness;
mod memory;
mod model;
mod opening;
mod pair;
mod strangers;
