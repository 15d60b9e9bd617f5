//! Layouts of the store: requests and answers of the native protocol, and the effects in its log. What can be
//! read is read whole, and written again it is the same bytes.

use catena_kv::effect::{EffectRef, effects};
use catena_kv::native::wire::{
    self, Action, Change, GOT_HEAD_BYTES, Got, Info, ScanRequest, Scanned, Write,
};

/// The first byte says which layout, the bytes follow.
pub fn run(data: &[u8]) {
    let Some((layout, bytes)) = data.split_first() else { return };
    let mut again = Vec::new();
    match layout % 8 {
        0 => {
            let Ok(write) = Write::decode(bytes) else { return };
            let changes: Vec<Change<'_>> = write.changes().collect();
            assert_eq!(changes.len(), write.len());
            Write::encode(write.numbered, &changes, &mut again);
            for change in changes {
                if let Action::Put { expiry, .. } | Action::Expire(expiry) = change.action {
                    expiry.instant(u64::MAX, None);
                }
            }
        }
        1 => {
            let Ok(got) = Got::decode(bytes) else { return };
            again.extend_from_slice(&got.head());
            again.extend_from_slice(got.value);
            assert_eq!(again.len(), GOT_HEAD_BYTES + got.value.len());
        }
        2 => {
            let Ok(request) = ScanRequest::decode(bytes) else { return };
            request.encode(&mut again);
        }
        3 => {
            let Ok((next, keys)) = Scanned::page(bytes) else { return };
            assert_eq!(next.is_some(), bytes[0] == 0);
            // Of a last page the place to go on means nothing.
            again.extend_from_slice(&bytes[..5]);
            keys.iter().for_each(|key| key.encode(&mut again));
        }
        4 => {
            let Ok((partition, lifetime_ms)) = wire::decode_open(bytes) else { return };
            wire::encode_open(partition, lifetime_ms, &mut again);
        }
        5 => {
            let Ok((partition, session)) = wire::decode_session(bytes) else { return };
            wire::encode_session(partition, session, &mut again);
        }
        6 => {
            let Ok(info) = Info::decode(bytes) else { return };
            info.encode(&mut again);
            // Later versions may add something behind, and have another number in front.
            assert_eq!(again[2..], bytes[2..again.len()]);
            return;
        }
        _ => {
            let all: Result<Vec<EffectRef<'_>>, _> = effects(bytes).collect();
            let Ok(all) = all else { return };
            all.iter().for_each(|effect| effect.encode(&mut again));
            assert_eq!(all.iter().map(EffectRef::encoded_bytes).sum::<usize>(), bytes.len());
        }
    }
    assert_eq!(again, bytes, "what was read is written again");
}
