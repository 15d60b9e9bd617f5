//! UNSAFE ISLAND: kernel and memory. Mechanism only, no policy; every face that it shows is safe.
//!
//! What the unsafe code here rests on, and who sees to it:
//!
//! - Memory that a submission names is moved in and comes back only with its last completion:
//!   [`in_flight`] gives a block up for a token that [`ring`] alone makes, once a completion.
//! - Such memory does not move while it is in flight: [`submit`] names only what lies on the heap
//!   behind a block.
//! - A send without a completion is over before its memory is handed back: [`ring`] hands back what
//!   the kernel has consumed and not complained about, and does not look while completions are on
//!   its overflow list.
//! - A receive buffer is the kernel's, or is read, never both: in [`buf_ring`] each has one owner,
//!   and every step from one to the next is asserted.
//! - A lent buffer has one holder, and its memory outlives ring and driver: [`buf_ring`] lends once
//!   at a time, and everybody who may look holds the [`pool`].
//! - The kernel lets go of all memory before any of it is freed: dropping a [`ring`] cancels
//!   everything and waits; what does not end in time is leaked.
//! - A descriptor that an accept tells of gets one owner: [`ring`] knows accepts by a bit of
//!   `user_data` that callers cannot set.
//! - A slot of a mailbox is written by its one producer or read by its one consumer: [`spsc`].
//!
//! A ring stays on the thread that made it (its type is not `Send`). Of everything above, only
//! [`pool::LentBuffer`] and the two ends of an [`spsc`] ring cross threads.

#![allow(unsafe_code)]

pub mod allocator;
pub mod buf_ring;
pub mod checksum;
pub mod clock;
pub mod in_flight;
pub mod pool;
pub mod prefetch;
pub mod ring;
pub mod socket;
pub mod spsc;
pub mod submit;
