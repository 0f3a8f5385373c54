//! The types of tensors that ggml has, with the size of their blocks. All are known, so that any file can be listed and
//! an unsupported one is refused by name.

use std::fmt;

/// The type of a tensor's blocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TensorType(&'static Block);

/// How a type lays out its elements.
#[derive(Debug, Eq, PartialEq)]
struct Block {
    number: u32,
    name: &'static str,
    /// Elements of a block.
    length: usize,
    /// Bytes of a block.
    bytes: usize,
}

const fn block(number: u32, name: &'static str, length: usize, bytes: usize) -> Block {
    Block {
        number,
        name,
        length,
        bytes,
    }
}

/// `ggml_type` and the block sizes of ggml's `ggml-common.h`.
static BLOCKS: [Block; 33] = [
    block(0, "F32", 1, 4),
    block(1, "F16", 1, 2),
    block(2, "Q4_0", 32, 18),
    block(3, "Q4_1", 32, 20),
    block(6, "Q5_0", 32, 22),
    block(7, "Q5_1", 32, 24),
    block(8, "Q8_0", 32, 34),
    block(9, "Q8_1", 32, 36),
    block(10, "Q2_K", 256, 84),
    block(11, "Q3_K", 256, 110),
    block(12, "Q4_K", 256, 144),
    block(13, "Q5_K", 256, 176),
    block(14, "Q6_K", 256, 210),
    block(15, "Q8_K", 256, 292),
    block(16, "IQ2_XXS", 256, 66),
    block(17, "IQ2_XS", 256, 74),
    block(18, "IQ3_XXS", 256, 98),
    block(19, "IQ1_S", 256, 50),
    block(20, "IQ4_NL", 32, 18),
    block(21, "IQ3_S", 256, 110),
    block(22, "IQ2_S", 256, 82),
    block(23, "IQ4_XS", 256, 136),
    block(24, "I8", 1, 1),
    block(25, "I16", 1, 2),
    block(26, "I32", 1, 4),
    block(27, "I64", 1, 8),
    block(28, "F64", 1, 8),
    block(29, "IQ1_M", 256, 56),
    block(30, "BF16", 1, 2),
    block(34, "TQ1_0", 256, 54),
    block(35, "TQ2_0", 256, 66),
    block(39, "MXFP4", 32, 17),
    block(40, "NVFP4", 64, 36),
];

impl TensorType {
    /// The type with this number in the file.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        BLOCKS.iter().find(|block| block.number == number).map(Self)
    }

    /// Its name, such as `Q4_1`.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Elements of a block.
    pub(super) fn block_length(self) -> usize {
        self.0.length
    }

    /// Bytes of `elements` elements, a whole number of blocks; `None` where that overflows.
    pub(super) fn bytes_of(self, elements: usize) -> Option<usize> {
        (elements / self.0.length).checked_mul(self.0.bytes)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.name)
    }
}
