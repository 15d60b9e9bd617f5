//! What a structured input says: lawful frames, changed or not, and what time and the owner do.

use arbitrary::Arbitrary;

/// A frame as numbers; lengths and checksums are computed.
#[derive(Arbitrary, Debug)]
pub struct FramePlan {
    kind: u8,
    flags: u8,
    code: u16,
    slot: u8,
    generation: u8,
    words: [u16; 3],
    metadata: Vec<u8>,
    payload: Vec<u8>,
    /// Bytes changed after encoding: where, and by what.
    changes: Option<[(u16, u8); 2]>,
    /// Make the header's checksum right again after the changes.
    is_sealed: bool,
}

impl FramePlan {
    /// The bytes on the wire. `kind` is one of the lawful ones most of the time, and so are the flags.
    pub fn encode(&self) -> Vec<u8> {
        let kind = if self.kind < 0xF0 { self.kind % 10 + 1 } else { self.kind };
        let lawful = [0, 2, 7, 3, 0, 0, 0, 2, 3, 3, 0];
        let mask = lawful.get(usize::from(kind)).copied().unwrap_or(0xFF);
        let flags = if self.kind < 0xE0 { self.flags & mask } else { self.flags };
        let has_body = matches!(kind, 1 | 2 | 3 | 7) || self.kind >= 0xE0;
        let mut body = Vec::new();
        if flags & 1 != 0 {
            body.extend((self.metadata.len() as u16).to_le_bytes());
            body.extend(&self.metadata);
        }
        body.extend(&self.payload);
        if !has_body {
            body.clear();
        }
        let trailer = if flags & crate::PAYLOAD_CRC != 0 { 4 } else { 0 };
        let mut bytes = ((32 + body.len() + trailer) as u32).to_le_bytes().to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(self.code.to_le_bytes());
        bytes.extend(u32::from(self.slot % 10).to_le_bytes());
        bytes.extend(u32::from(self.generation % 4).to_le_bytes());
        bytes.extend(self.words.iter().flat_map(|word| u32::from(*word).to_le_bytes()));
        bytes.extend([0; 4]);
        bytes.extend(&body);
        bytes.resize(bytes.len() + trailer, 0);
        crate::seal(&mut bytes);
        for (at, change) in self.changes.into_iter().flatten() {
            let at = usize::from(at) % bytes.len();
            bytes[at] ^= change;
        }
        if self.is_sealed {
            crate::seal(&mut bytes);
        }
        bytes
    }
}

/// One thing that happens.
#[derive(Arbitrary, Debug)]
pub enum Step {
    Frame(FramePlan),
    /// The beginning of a frame; what follows in the script is then read as its rest.
    CutFrame(FramePlan, u8),
    Bytes(Vec<u8>),
    /// Time passes, and nobody looks at the clock.
    Wait(u16),
    /// Time passes to the instant at which the connection wants to be called.
    Due,
    Start {
        deadline_ms: Option<u8>,
        payload_bytes: u8,
    },
    Cancel(u8),
    Answer(u8),
    Drain,
    SendStarted(u32),
    SendEnded,
    Pause,
    Resume,
    /// The peer's stream ends.
    End {
        in_order: bool,
    },
    Abort,
}

/// A whole conversation.
#[derive(Arbitrary, Debug)]
pub struct Script {
    pub is_server: bool,
    pub is_greeted: bool,
    pub payload_crc: bool,
    pub has_idle_timeout: bool,
    /// Bytes a piece; 0: as sent.
    pub cut: u8,
    pub steps: Vec<Step>,
}
