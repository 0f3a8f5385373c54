//! The same metrics for TensorBoard: an event file, which is a TFRecord of protocol buffers.
//!
//! Written by hand, because two messages of five fields need no generator: `Event` (tensorflow/core/util/event.proto) and
//! `Summary` (tensorflow/core/framework/summary.proto). Nothing here reads a clock: times come with the numbers.

/// What the first event says, so that readers know the form of the others.
const VERSION: &str = "brain.Event:2";

/// An event file that grows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct EventFile {
    bytes: Vec<u8>,
}

impl EventFile {
    /// Goes on with a file that was written earlier.
    pub(super) const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds the numbers of a step, each under its tag, at `seconds` since 1970.
    pub(super) fn push(&mut self, seconds: f64, step: u64, scalars: &[(&str, f64)]) {
        if self.bytes.is_empty() {
            let mut event = Message::default();
            event.double(field::WALL_TIME, seconds);
            event.bytes(field::FILE_VERSION, VERSION.as_bytes());
            self.record(&event.0);
        }
        let mut summary = Message::default();
        for (tag, number) in scalars {
            let mut value = Message::default();
            value.bytes(field::TAG, tag.as_bytes());
            value.float(field::SIMPLE_VALUE, *number as f32);
            summary.bytes(field::VALUE, &value.0);
        }
        let mut event = Message::default();
        event.double(field::WALL_TIME, seconds);
        event.varint(field::STEP, step);
        event.bytes(field::SUMMARY, &summary.0);
        self.record(&event.0);
    }

    /// A record: length, checksum of the length, data, checksum of the data.
    fn record(&mut self, data: &[u8]) {
        let length = (data.len() as u64).to_le_bytes();
        self.bytes.extend(length);
        self.bytes.extend(masked_checksum(&length).to_le_bytes());
        self.bytes.extend(data);
        self.bytes.extend(masked_checksum(data).to_le_bytes());
    }
}

/// Numbers of the fields.
mod field {
    /// `Event.wall_time`, double.
    pub(super) const WALL_TIME: u8 = 1;
    /// `Event.step`, int64.
    pub(super) const STEP: u8 = 2;
    /// `Event.file_version`, string.
    pub(super) const FILE_VERSION: u8 = 3;
    /// `Event.summary`, Summary.
    pub(super) const SUMMARY: u8 = 5;
    /// `Summary.value`, repeated Value.
    pub(super) const VALUE: u8 = 1;
    /// `Value.tag`, string.
    pub(super) const TAG: u8 = 1;
    /// `Value.simple_value`, float.
    pub(super) const SIMPLE_VALUE: u8 = 2;
}

/// A protocol buffer under construction. Each field begins with its number and the kind of what follows.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u8, kind: u8) {
        self.0.push(field << 3 | kind);
    }

    fn varint(&mut self, field: u8, number: u64) {
        self.key(field, 0);
        self.number(number);
    }

    fn double(&mut self, field: u8, number: f64) {
        self.key(field, 1);
        self.0.extend(number.to_le_bytes());
    }

    fn bytes(&mut self, field: u8, bytes: &[u8]) {
        self.key(field, 2);
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn float(&mut self, field: u8, number: f32) {
        self.key(field, 5);
        self.0.extend(number.to_le_bytes());
    }

    /// Seven bits a byte, the lowest first; all but the last have the eighth bit set.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

/// CRC-32C, turned and shifted as TFRecord wants it: checksums of data that holds checksums would else be weak.
fn masked_checksum(data: &[u8]) -> u32 {
    checksum(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a few hundred bytes a step.
fn checksum(data: &[u8]) -> u32 {
    let mut remainder = u32::MAX;
    for byte in data {
        remainder ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = remainder & 1;
            remainder = remainder >> 1 ^ (0x82f6_3b78 * carry);
        }
    }
    !remainder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(checksum(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_file_is_to_the_byte_what_the_reference_writes() {
        let mut file = EventFile::default();
        file.push(1.5, 1, &[("train/loss", 2.25), ("train/accuracy", 0.5)]);
        file.push(2.5, 300, &[("validation/loss", 0.125)]);
        assert_eq!(hex::encode(file.bytes()), REFERENCE);
    }

    #[test]
    fn a_file_goes_on_where_it_was_left() {
        let mut whole = EventFile::default();
        whole.push(1.0, 1, &[("a", 1.0)]);
        let mut torn = EventFile::from_bytes(whole.bytes().to_vec());
        for file in [&mut whole, &mut torn] {
            file.push(2.0, 2, &[("a", 2.0)]);
        }
        assert_eq!(whole, torn);
    }

    /// What tensorboard 2.21's `RecordWriter` writes of these three `Event`s.
    const REFERENCE: &str = "\
        1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c3700000000\
        000000e7e8ca5909000000000000f83f10012a2a0a110a0a747261696e2f6c6f737315000010400a150a0e7472\
        61696e2f6163637572616379150000003fe3d9274d2600000000000000734fe30009000000000000044010ac02\
        2a180a160a0f76616c69646174696f6e2f6c6f7373150000003e44a35be7";
}
