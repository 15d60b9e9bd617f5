//! Which part of the key space a key is in: key → slot → partition → shard.
//!
//! Slots are those of Redis Cluster, so that every language's cluster client finds them by itself. Slots
//! make up partitions and partitions make up shards, both as contiguous ranges that differ by one at most.

use catena_engine::shard_index::ShardIndex;
use std::ops::Range;

/// Slots there are. Source: Redis Cluster's specification.
pub const SLOTS: u16 = 1 << SLOT_BITS;

/// Partitions there can be at most: 16 slots each, and a table for each costs little beside its keys.
pub const PARTITIONS_MAX: u16 = 1024;

const SLOT_BITS: u32 = 14;

/// One of the 16,384 slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

/// How many partitions the slots are cut in: a power of two, fixed when a data directory is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partitions {
    bits: u32,
}

/// A contiguous range of slots: what has one order of writes and is moved as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);

impl Slot {
    /// The slot of a key: of what stands between its first `{` and the first `}` behind that, unless that is
    /// nothing; else of the whole key. So a caller can have keys in one slot.
    #[must_use]
    #[inline]
    pub fn of(key: &[u8]) -> Self {
        Self(crc16(hashed(key)) % SLOTS)
    }

    /// The slot of that number; `None` from [`SLOTS`] on.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (number < SLOTS).then_some(Self(number))
    }

    /// Its number, below [`SLOTS`].
    #[must_use]
    #[inline]
    pub fn number(self) -> u16 {
        self.0
    }
}

impl Partitions {
    /// So many; `None` unless it is a power of two up to [`PARTITIONS_MAX`].
    #[must_use]
    pub fn new(count: u16) -> Option<Self> {
        let good = count.is_power_of_two() && count <= PARTITIONS_MAX;
        good.then(|| Self { bits: count.trailing_zeros() })
    }

    /// How many.
    #[must_use]
    pub fn count(self) -> u16 {
        1 << self.bits
    }

    /// All of them in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = Partition> {
        (0..self.count()).map(Partition)
    }

    /// The partitions of one of `shards` shards: contiguous, and none if there are more shards than
    /// partitions and this is one of those without.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn of_shard(self, shard: ShardIndex, shards: u16) -> Range<u16> {
        let ShardIndex(shard) = shard;
        assert!(shard < shards, "shard {shard} of {shards}");
        let first =
            |shard: u32| (shard * u32::from(self.count())).div_ceil(u32::from(shards)) as u16;
        first(u32::from(shard))..first(u32::from(shard) + 1)
    }
}

impl Default for Partitions {
    /// 256 of them: enough to spread over the cores of a large host, few enough that each is worth a table.
    fn default() -> Self {
        Self { bits: 8 }
    }
}

impl Partition {
    /// The partition that a slot is in.
    #[must_use]
    #[inline]
    pub fn of(slot: Slot, partitions: Partitions) -> Self {
        Self(slot.0 >> (SLOT_BITS - partitions.bits))
    }

    /// The slots in it.
    #[must_use]
    pub fn slots(self, partitions: Partitions) -> Range<u16> {
        let bits = SLOT_BITS - partitions.bits;
        self.0 << bits..(self.0 + 1) << bits
    }
}

/// The shard, of `shards`, that a partition belongs to.
#[must_use]
#[inline]
pub fn shard_of(partition: Partition, partitions: Partitions, shards: u16) -> ShardIndex {
    debug_assert!(partition.0 < partitions.count(), "{partition:?} of {partitions:?}");
    ShardIndex(((u32::from(partition.0) * u32::from(shards)) >> partitions.bits) as u16)
}

/// The part of a key that decides its slot.
#[inline]
fn hashed(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let tag = &key[open + 1..];
    match tag.iter().position(|byte| *byte == b'}') {
        Some(bytes @ 1..) => &tag[..bytes],
        _ => key,
    }
}

/// `CRC[n][byte]`: what a byte with n bytes behind it adds to a CRC. 4 KiB, so that eight bytes are eight
/// independent look-ups instead of eight that wait for one another ("slicing by 8").
static CRC: [[u16; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ CRC_POLYNOMIAL } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut behind = 1;
    while behind < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc: u16 = tables[behind - 1][byte];
            tables[behind][byte] = crc << 8 ^ tables[0][(crc >> 8) as usize];
            byte += 1;
        }
        behind += 1;
    }
    tables
};

/// x^16 + x^12 + x^5 + 1.
const CRC_POLYNOMIAL: u16 = 0x1021;

/// CRC-16/XMODEM: begins with 0, most significant bit first.
#[inline]
fn crc16(bytes: &[u8]) -> u16 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let crc = eights.iter().fold(0_u16, |crc, &[a, b, c, d, e, f, g, h]| {
        let [high, low] = crc.to_be_bytes();
        CRC[7][usize::from(a ^ high)]
            ^ CRC[6][usize::from(b ^ low)]
            ^ CRC[5][usize::from(c)]
            ^ CRC[4][usize::from(d)]
            ^ CRC[3][usize::from(e)]
            ^ CRC[2][usize::from(f)]
            ^ CRC[1][usize::from(g)]
            ^ CRC[0][usize::from(h)]
    });
    rest.iter().fold(crc, |crc, byte| crc << 8 ^ CRC[0][usize::from((crc >> 8) as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn a_tag_decides_if_it_is_one() {
        for (key, part) in [
            ("user:{42}:name", "42"),
            ("{42}", "42"),
            ("a{b}c{d}", "b"),
            ("a{{b}}c", "{b"),
            ("a}b{c}", "c"),
            ("a{}b{c}", "a{}b{c}"),
            ("a{b", "a{b"),
            ("a}b", "a}b"),
            ("{", "{"),
            ("{}", "{}"),
            ("", ""),
        ] {
            assert_eq!(hashed(key.as_bytes()), part.as_bytes(), "{key}");
        }
    }

    /// As `redis-cli cluster keyslot` of Redis 7.0 says.
    #[test]
    fn slots_are_those_of_redis() {
        for (key, slot) in [
            ("", 0),
            ("123456789", 12_739),
            ("foo", 12_182),
            ("key:000000000001", 8_924),
            ("user:{42}:name", 8_000),
            ("x{tag}", 8_338),
            ("a{}b", 13_694),
            ("a{{b}}c", 6_215),
            ("{", 4_092),
        ] {
            assert_eq!(Slot::of(key.as_bytes()).number(), slot, "{key}");
        }
    }

    #[test]
    fn numbers_of_partitions() {
        for count in 0..=u16::MAX {
            let good = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024].contains(&count);
            assert_eq!(Partitions::new(count).map(Partitions::count), good.then_some(count));
        }
        assert_eq!(Partitions::default().count(), 256);
        assert_eq!(Slot::new(SLOTS - 1).map(Slot::number), Some(16_383));
        assert_eq!(Slot::new(SLOTS), None);
    }

    #[test]
    fn partitions_cut_the_slots_into_equal_ranges() {
        for partitions in (0..=10).filter_map(|bits| Partitions::new(1 << bits)) {
            let mut next = 0;
            for partition in partitions.iter() {
                let slots = partition.slots(partitions);
                assert_eq!(slots.start, next, "{partition:?} of {partitions:?} follows");
                assert_eq!(slots.len() * usize::from(partitions.count()), usize::from(SLOTS));
                for slot in slots.clone() {
                    assert_eq!(Partition::of(Slot(slot), partitions), partition);
                    let formula = u32::from(slot) * u32::from(partitions.count()) / 16_384;
                    assert_eq!(u32::from(partition.0), formula);
                }
                next = slots.end;
            }
            assert_eq!(next, SLOTS, "every slot is in a partition");
        }
    }

    #[test]
    fn shards_cut_the_partitions_into_ranges_that_differ_by_one_at_most() {
        for partitions in (0..=10).filter_map(|bits| Partitions::new(1 << bits)) {
            for shards in (1..=130).chain([1_000, 1_023, 1_024, 1_025]) {
                let mut next = 0;
                let fair = usize::from(partitions.count() / shards);
                for shard in 0..shards {
                    let range = partitions.of_shard(ShardIndex(shard), shards);
                    assert_eq!(range.start, next, "shard {shard} of {shards}, {partitions:?}");
                    assert!((fair..=fair + 1).contains(&range.len()), "shard {shard} of {shards}");
                    for partition in range.clone() {
                        assert_eq!(
                            shard_of(Partition(partition), partitions, shards),
                            ShardIndex(shard)
                        );
                    }
                    next = range.end;
                }
                assert_eq!(next, partitions.count(), "every partition is on a shard");
            }
        }
    }

    proptest! {
        #[test]
        fn eight_bytes_at_once_are_as_one_bit_after_the_other(key: Vec<u8>) {
            let slow = key.iter().fold(0_u16, |crc, byte| {
                (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
                    if crc & 0x8000 != 0 { crc << 1 ^ CRC_POLYNOMIAL } else { crc << 1 }
                })
            });
            prop_assert_eq!(crc16(&key), slow);
        }
    }
}
