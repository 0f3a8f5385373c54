//! Reads little-endian numbers and strings off a slice. It must never step past the end, and takes memory only for what
//! is there.

use crate::tensor_places::check_name;

/// A place in a slice.
pub(super) struct Cursor<'bytes> {
    bytes: &'bytes [u8],
    position: usize,
}

impl<'bytes> Cursor<'bytes> {
    pub(super) fn new(bytes: &'bytes [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Where the next byte is read.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// The length of the whole slice.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that are left.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'bytes [u8], String> {
        let end = self
            .position
            .checked_add(count)
            .filter(|end| *end <= self.bytes.len());
        let end =
            end.ok_or_else(|| format!("it ends within its header, at byte {}", self.bytes.len()))?;
        let taken = &self.bytes[self.position..end];
        self.position = end;
        Ok(taken)
    }

    /// The next `N` bytes, as an array.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string: its length in bytes, then UTF-8.
    pub(super) fn string(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.remaining())
            .ok_or_else(|| format!("a string claims {length} bytes, beyond the end of the file"))?;
        let start = self.position;
        String::from_utf8(self.take(length)?.to_vec())
            .map_err(|_| format!("the string at byte {start} is not UTF-8"))
    }

    /// A string that names something.
    pub(super) fn name(&mut self) -> Result<String, String> {
        let name = self.string()?;
        check_name(&name)?;
        Ok(name)
    }
}
