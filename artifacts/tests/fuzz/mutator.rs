//! Changes files the way damage and malice do: bits, lengths, numbers at their limits, parts lost, doubled and mixed.

/// Numbers at which arithmetic goes wrong.
const LIMITS: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    1 << 31,
    0xffff_ffff,
    1 << 40,
    1 << 62,
    0x7fff_ffff_ffff_ffff,
    1 << 63,
    u64::MAX,
];
/// The same as text, and what else JSON allows.
const TEXTS: [&str; 14] = [
    "0",
    "-1",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "1e400",
    "-0",
    "1.5",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"\\ud800\"",
];

/// A source of changed files, always the same for the same start.
pub(crate) struct Mutator {
    state: u64,
}

impl Mutator {
    pub(crate) const fn new(start: u64) -> Self {
        Self { state: start }
    }

    /// A copy of one of the seeds with one to four changes.
    pub(crate) fn changed(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, seeds);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        if bytes.is_empty() {
            bytes.push(self.next() as u8);
            return;
        }
        let at = self.place(bytes.len());
        match self.below(10) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.next() as u8,
            2 => {
                let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                let limit = LIMITS[self.below(LIMITS.len())].to_le_bytes();
                bytes[at..at + width].copy_from_slice(&limit[..width]);
            }
            3 => bytes.truncate(at),
            4 => {
                let end = self.end(at, bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let part = bytes[at..self.end(at, bytes.len())].to_vec();
                let place = self.place(bytes.len());
                drop(bytes.splice(place..place, part));
            }
            6 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.place(other.len().max(1)).min(other.len());
                let part = other[from..self.end(from, other.len())].to_vec();
                drop(bytes.splice(at..at, part));
            }
            7 => {
                let end = self.end(at, bytes.len());
                let text = TEXTS[self.below(TEXTS.len())];
                drop(bytes.splice(at..end.min(at + text.len()), text.bytes()));
            }
            // A number that stands as text, in a header or a row.
            8 => {
                let digit = bytes[at..].iter().position(u8::is_ascii_digit);
                let start = at + digit.unwrap_or(0);
                let length = bytes[start..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit())
                    .count();
                let text = TEXTS[self.below(TEXTS.len())];
                drop(bytes.splice(start..start + length, text.bytes()));
            }
            _ => {
                let other = self.place(bytes.len());
                bytes.swap(at, other);
            }
        }
    }

    /// A place in a file of this length, half of the time near its start, where headers lie.
    fn place(&mut self, length: usize) -> usize {
        match self.below(2) {
            0 => self.below(length.min(1024)),
            _ => self.below(length),
        }
    }

    /// Where a part that begins at `at` ends, at most 64 bytes on.
    fn end(&mut self, at: usize, length: usize) -> usize {
        (at + 1 + self.below(64)).min(length).max(at)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
