//! The hash of a key: where it stands in the index, and in the order of a walk.

use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

/// The secret that keys the hash, so that nobody can choose keys that fall together. Derived once
/// from 64 bits that are equal on all replicas and over restarts.
#[derive(Clone, Debug)]
pub struct HashSeed(RapidSecrets);

/// The hash word of a key, computed once a command.
///
/// The function is rapidhash V3: a few multiplications for a short key, keyed by a seed and
/// secrets, and *versioned*, the same on all machines. That matters here: cursors of walks carry
/// hash words to clients, and other replicas continue them. (foldhash and ahash are as fast and
/// promise no stable output.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KeyHash(u32);

impl HashSeed {
    /// Derives the secret: some hundred nanoseconds, so keep it.
    pub fn new(seed: u64) -> Self {
        Self(RapidSecrets::seed(seed))
    }
}

impl KeyHash {
    /// The hash of `key`.
    #[inline]
    pub fn of(seed: &HashSeed, key: &[u8]) -> Self {
        Self((rapidhash_v3_seeded(key, &seed.0) >> 32) as u32)
    }

    /// From the word itself.
    #[inline]
    pub(super) const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// The 32 bits.
    #[inline]
    pub const fn word(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cursors outlive a process: an update of the crate may not change these.
    #[test]
    fn the_words_are_fixed_for_ever() {
        let seed = HashSeed::new(0x0123_4567_89ab_cdef);
        let words = [b"".as_slice(), b"a", b"user:1000", &[7; 100], &[9; 1_000]]
            .map(|key| KeyHash::of(&seed, key).word());
        assert_eq!(words, [661_062_907, 770_515_469, 1_086_385_657, 931_498_868, 1_786_833_436]);
    }

    #[test]
    fn another_seed_gives_other_words() {
        let [one, other] = [1, 2].map(HashSeed::new);
        let same = (0..1_000_u32)
            .filter(|key| {
                let key = key.to_le_bytes();
                KeyHash::of(&one, &key) == KeyHash::of(&other, &key)
            })
            .count();
        assert!(same <= 1, "{same} of 1,000");
    }
}
