//! `CATENA.BACKUP`: all keys of the shard that a connection is to, for who keeps them elsewhere.
//!
//! `BEGIN` tells what there is, `NEXT` gives the next bytes of what is a checkpoint's file in all but its
//! name ([`crate::checkpoint::format`]), and nothing after the last one. Each partition is as it was at one
//! instant, while everybody is served. It ends with its connection.

use super::Redis;
use super::client::ClientState;
use crate::checkpoint::write::{What, Writer};
use crate::command::error::Error;
use crate::log::{DirectoryId, LogIdentity};
use crate::resp::{Args, Reply};
use crate::store::Store;
use catena_engine::shard_index::ShardIndex;

/// What a backup's frames say of the log that they are of: none.
const fn identity(shard: u32) -> LogIdentity {
    LogIdentity { directory: DirectoryId([0; 16]), incarnation: 0, shard }
}

/// Bytes that one `NEXT` gives, about: some 100 µs of a turn.
const PIECE_BYTES: usize = 64 * 1_024;

/// Entries that are looked at between two looks at how many bytes there are.
const STEP_ENTRIES: usize = 64;

/// Steps of one `NEXT`, at most: partitions that are nearly empty give little.
const STEPS_MAX: usize = 64;

impl Redis {
    /// Carries the command out, and appends its answer.
    ///
    /// # Errors
    /// If it is neither `BEGIN` nor `NEXT`, or nothing has begun.
    pub(super) fn backup(
        &self,
        client: &mut ClientState,
        store: &mut Store,
        args: &Args<'_>,
        text: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let shard = self.local.shard();
        let mut reply = Reply::new(text, client.protocol);
        if args.at(1).eq_ignore_ascii_case(b"begin") {
            end(client, store);
            client.backup = Some(Box::new(Writer::new(What::Backup)));
            let facts = [
                ("shard", u64::from(shard.0)),
                ("shards", u64::from(self.local.shard_count())),
                ("partitions", u64::from(store.config().partitions.count())),
                ("hash_seed", store.config().hash_seed),
            ];
            reply.map(facts.len());
            for (name, value) in facts {
                reply.bulk(name.as_bytes());
                reply.bulk(value.to_string().as_bytes());
            }
            return Ok(());
        }
        if !args.at(1).eq_ignore_ascii_case(b"next") {
            return Err(Error::SYNTAX);
        }
        let writer = client.backup.as_mut().ok_or(Error::fixed("ERR no backup has begun"))?;
        reply.bulk(&next(writer, store, shard));
        Ok(())
    }
}

/// Ends a connection's backup, if it has one.
pub(super) fn end(client: &mut ClientState, store: &mut Store) {
    if let Some(mut writer) = client.backup.take() {
        writer.abandon(store);
    }
}

fn next(writer: &mut Writer, store: &mut Store, shard: ShardIndex) -> Vec<u8> {
    let identity = identity(shard.0.into());
    let mut piece = Vec::new();
    for _ in 0..STEPS_MAX {
        let is_done = writer.step(store, (&identity, 0), STEP_ENTRIES, &mut piece);
        if is_done || piece.len() >= PIECE_BYTES {
            break;
        }
    }
    piece
}
