//! The bytes of a file, holes included, and what a crash leaves of one write.

use crate::rng::Rng;
use std::collections::BTreeMap;
use std::ops::Range;

/// What a disk writes as one piece: it is there after a crash or it is not.
pub(super) const SECTOR_BYTES: u64 = 512;

const PAGE_BYTES: usize = 4_096;

/// Sparse contents of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// The pages that take room. `None`: one of zeros, which takes none in memory.
    pages: BTreeMap<u64, Option<Box<[u8; PAGE_BYTES]>>>,
    length: u64,
}

impl Image {
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Room that it takes on a disk, in bytes.
    pub fn allocated_bytes(&self) -> u64 {
        (self.pages.len() * PAGE_BYTES) as u64
    }

    /// Room that a write would take in addition.
    pub fn growth_bytes(&self, offset: u64, length: usize) -> u64 {
        let pages = page_pieces(offset, length);
        let new = pages.filter(|(page, _, _)| !self.pages.contains_key(page)).count();
        (new * PAGE_BYTES) as u64
    }

    /// Room that an [`Image::extend`] would take in addition.
    pub fn extension_bytes(&self, length: u64) -> u64 {
        let there = self.pages.range(..length.div_ceil(PAGE_BYTES as u64)).count() as u64;
        (length.div_ceil(PAGE_BYTES as u64) - there) * PAGE_BYTES as u64
    }

    /// Takes the room for the first `length` bytes, and is at least as long.
    pub fn extend(&mut self, length: u64) {
        for page in 0..length.div_ceil(PAGE_BYTES as u64) {
            self.pages.entry(page).or_default();
        }
        self.length = self.length.max(length);
    }

    /// Reads into `buffer` up to the end of the file; says how many bytes.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let length = (self.length.saturating_sub(offset)).min(buffer.len() as u64) as usize;
        for (page, in_page, in_buffer) in page_pieces(offset, length) {
            match self.pages.get(&page) {
                Some(Some(bytes)) => buffer[in_buffer].copy_from_slice(&bytes[in_page]),
                Some(None) | None => buffer[in_buffer].fill(0),
            }
        }
        length
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (page, in_page, in_bytes) in page_pieces(offset, bytes.len()) {
            let page = self.pages.entry(page).or_default();
            let page = page.get_or_insert_with(|| Box::new([0; PAGE_BYTES]));
            page[in_page].copy_from_slice(&bytes[in_bytes]);
        }
        if !bytes.is_empty() {
            self.length = self.length.max(offset + bytes.len() as u64);
        }
    }
}

/// Cuts `length` bytes at `offset` into pages: the page, the range in it, the range in the bytes.
fn page_pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % PAGE_BYTES as u64) as usize;
        let bytes = (PAGE_BYTES - start).min(length - done);
        let piece = (at / PAGE_BYTES as u64, start..start + bytes, done..done + bytes);
        done += bytes;
        Some(piece)
    })
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Kept,
    Lost,
    /// Some of its sectors are there, others are not.
    Torn,
}

/// Draws what is left of `length` bytes written at `offset` and never synced: the ranges that
/// survive. A write within one sector is whole or gone.
pub(super) fn draw_fate(offset: u64, length: usize, rng: &mut Rng) -> (Fate, Vec<Range<usize>>) {
    let whole = 0..length;
    let sectors: Vec<Range<usize>> = sectors(offset, length).collect();
    match rng.below(3) {
        0 => return (Fate::Kept, vec![whole]),
        1 => return (Fate::Lost, Vec::new()),
        _ if sectors.len() < 2 && rng.chance(0.5) => return (Fate::Kept, vec![whole]),
        _ if sectors.len() < 2 => return (Fate::Lost, Vec::new()),
        _ => {}
    }
    let cut = 1 + rng.below(sectors.len() as u64 - 1) as usize;
    let kept: Vec<Range<usize>> = if rng.chance(0.5) {
        sectors[..cut].to_vec()
    } else {
        // A disk may write sectors in any order: keep some, but neither none nor all.
        let first = rng.below(sectors.len() as u64) as usize;
        let without = (first + cut) % sectors.len();
        let mut keep = |index| index == first || (index != without && rng.chance(0.5));
        sectors
            .iter()
            .enumerate()
            .filter(|(index, _)| keep(*index))
            .map(|(_, s)| s.clone())
            .collect()
    };
    (Fate::Torn, kept)
}

/// The sectors that `length` bytes at `offset` touch, as ranges of the bytes.
fn sectors(offset: u64, length: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == length {
            return None;
        }
        let to_boundary = SECTOR_BYTES - (offset + start as u64) % SECTOR_BYTES;
        let end = length.min(start + to_boundary as usize);
        let sector = start..end;
        start = end;
        Some(sector)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_file() {
        let (mut image, mut plain) = (Image::default(), Vec::new());
        let mut rng = Rng::from_seed(11);
        for _ in 0..300 {
            let (offset, length) = (rng.below(20_000) as usize, rng.below(9_000) as usize);
            let bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
            let growth = image.growth_bytes(offset as u64, length);
            let before = image.allocated_bytes();
            image.write(offset as u64, &bytes);
            assert_eq!(image.allocated_bytes(), before + growth);
            if length > 0 {
                plain.resize(plain.len().max(offset + length), 0);
                plain[offset..offset + length].copy_from_slice(&bytes);
            }
            assert_eq!(image.length(), plain.len() as u64);
            let (from, length) = (rng.below(30_000) as usize, rng.below(9_000) as usize);
            let mut read = vec![9; length];
            let count = image.read(from as u64, &mut read);
            let from = from.min(plain.len());
            assert_eq!(read[..count], plain[from..(from + length).min(plain.len())]);
        }
    }

    #[test]
    fn room_is_taken_once() {
        let mut image = Image::default();
        image.write(5_000, b"here");
        assert_eq!(image.extension_bytes(12_289), 3 * PAGE_BYTES as u64);
        image.extend(12_289);
        assert_eq!((image.length(), image.allocated_bytes()), (12_289, 4 * PAGE_BYTES as u64));
        assert_eq!((image.extension_bytes(12_289), image.growth_bytes(0, 16_384)), (0, 0));
        let mut bytes = [9; 12_289];
        assert_eq!(image.read(0, &mut bytes), 12_289);
        assert!(bytes[5_000..5_004] == *b"here" && bytes.iter().filter(|b| **b != 0).count() == 4);
        image.extend(100);
        assert_eq!(image.length(), 12_289, "never shorter");
    }

    #[test]
    fn a_torn_write_is_torn_at_the_sectors_of_the_file() {
        let mut rng = Rng::from_seed(12);
        let mut seen = [0; 3];
        for round in 0..1_000u64 {
            let (offset, length) = (round % 700, 1 + rng.below(4_000) as usize);
            let (fate, kept) = draw_fate(offset, length, &mut rng);
            seen[fate as usize] += 1;
            let bytes: usize = kept.iter().map(|range| range.len()).sum();
            match fate {
                Fate::Kept => assert_eq!(bytes, length),
                Fate::Lost => assert_eq!(bytes, 0),
                Fate::Torn => assert!(0 < bytes && bytes < length),
            }
            for edge in kept.iter().flat_map(|range| [range.start, range.end]) {
                let inner = edge != 0 && edge != length;
                assert!(!inner || (offset + edge as u64).is_multiple_of(SECTOR_BYTES));
            }
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }
}
