//! The commands: what there is, what each wants, and who carries it out.
//!
//! | file | what |
//! |---|---|
//! | [`spec`] | the table of commands, and how one is found in it |
//! | [`strings`], [`keys`], [`object`], [`usage`] | commands on keys: they run where the keys are |
//! | [`number`], [`time`], [`glob`] | what their arguments mean |
//! | [`error`] | refusals, in Redis' words |

pub mod error;
pub mod glob;
pub mod keys;
pub mod number;
pub mod object;
pub mod spec;
pub mod strings;
pub mod time;
pub mod usage;

use error::Error;

/// What a command comes to when its reply is written: nothing more, or an error instead of a reply.
pub type Done = Result<(), Error>;
