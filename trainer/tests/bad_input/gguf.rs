//! GGUF files whose bytes, metadata or tensors are not what they should be, and files cut short at every section.

use std::path::Path;

use finetune_artifacts::gguf::GgufFile;
use finetune_dataset::tokenize::Tokenizer;

use crate::table::{Case, case, edit, refuse_all};

const FILE: &str = "model.gguf";
const BLOCK_COUNT: &str = "llama.block_count";
const TOKENS: &str = "tokenizer.ggml.tokens";
const QUERY: &str = "blk.0.attn_q.weight";
const NORM: &str = "output_norm.weight";

#[test]
fn broken_bytes_are_refused_by_file_and_place() {
    refuse_all("gguf/q4_1.gguf", BYTES);
}

#[test]
fn broken_metadata_are_refused_by_key() {
    refuse_all("gguf/q4_1.gguf", METADATA);
}

/// What breaks the file in a folder.
type Change<'a> = &'a dyn Fn(&Path);

#[test]
fn broken_sentence_piece_metadata_are_refused_by_key_and_piece() {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/tokenizer-llama.gguf");
    let whole = std::fs::read(fixture).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], Change<'_>); 6] = [
        (&["tokenizer.ggml.scores", "it is absent"], &|folder| {
            rename(folder, "tokenizer.ggml.scores", "tokenizer.ggml.scorez");
        }),
        (
            &["tokenizer.ggml.token_type", "one for each token"],
            &|folder| {
                rename(
                    folder,
                    "tokenizer.ggml.token_type",
                    "tokenizer.ggml.token_typo",
                );
            },
        ),
        (&[TOKENS, "piece 0 is of type 9"], &|folder| {
            patch(folder, "tokenizer.ggml.token_type", 16, &[9]);
        }),
        (&[TOKENS, "piece 0 has the score"], &|folder| {
            patch(folder, "tokenizer.ggml.scores", 16, &f32::NAN.to_le_bytes());
        }),
        (&[TOKENS, "no piece of the type unknown"], &|folder| {
            patch(folder, "tokenizer.ggml.unknown_token_id", 4, &[1]);
        }),
        (&[TOKENS, "<0x41> is not there"], &|folder| {
            rename(folder, "<0x41>", "<0xAZ>");
        }),
    ];
    for (expected, change) in cases {
        std::fs::write(folder.path().join(FILE), &whole).unwrap();
        change(folder.path());
        let file = GgufFile::open(&folder.path().join(FILE)).unwrap();
        let error = Tokenizer::from_gguf(&file).unwrap_err().to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn broken_tensors_are_refused_by_name() {
    refuse_all("gguf/q4_1.gguf", TENSORS);
}

fn find(bytes: &[u8], text: &str) -> usize {
    let found = bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes());
    found.unwrap_or_else(|| panic!("no `{text}`"))
}

/// Changes the bytes from the end of `text` on.
fn after(folder: &Path, text: &str, change: impl FnOnce(&mut [u8])) {
    edit(folder, FILE, |bytes| {
        let at = find(bytes, text) + text.len();
        change(&mut bytes[at..]);
    });
}

/// Writes over the bytes that begin `skip` after the end of `text`.
fn patch(folder: &Path, text: &str, skip: usize, value: &[u8]) {
    after(folder, text, |bytes| {
        bytes[skip..skip + value.len()].copy_from_slice(value);
    });
}

/// Cuts the file `more` bytes after the end of `text`.
fn cut(folder: &Path, text: &str, more: usize) {
    edit(folder, FILE, |bytes| {
        let at = find(bytes, text) + text.len() + more;
        bytes.truncate(at);
    });
}

/// Replaces a text by another one of the same length.
fn rename(folder: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    edit(folder, FILE, |bytes| {
        let at = find(bytes, from);
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    });
}

const BYTES: &[Case] = &[
    case("empty", &[FILE, "does not begin with `GGUF`"], |folder| {
        edit(folder, FILE, Vec::clear);
    }),
    case(
        "a pickle",
        &[FILE, "does not begin with `GGUF`", "it is a pickle"],
        |folder| {
            edit(folder, FILE, |bytes| {
                bytes[..4].copy_from_slice(b"PK\x03\x04")
            });
        },
    ),
    case("a pointer of Git LFS", &[FILE, "git lfs pull"], |folder| {
        edit(folder, FILE, |bytes| {
            *bytes = b"version https://git-lfs.github.com/spec/v1".to_vec()
        });
    }),
    case(
        "version 1",
        &[FILE, "its version is 1, expected 2 or 3"],
        |folder| {
            edit(folder, FILE, |bytes| bytes[4] = 1);
        },
    ),
    case("big-endian", &[FILE, "it is big-endian"], |folder| {
        edit(folder, FILE, |bytes| {
            bytes[4..8].copy_from_slice(&3_u32.to_be_bytes())
        });
    }),
    case(
        "2^63 tensors",
        &[FILE, "it claims 9223372036854775808 tensors"],
        |folder| {
            edit(folder, FILE, |bytes| {
                bytes[8..16].copy_from_slice(&(1_u64 << 63).to_le_bytes())
            });
        },
    ),
    case(
        "a million entries",
        &[FILE, "1048576 metadata entries, expected at most"],
        |folder| {
            edit(folder, FILE, |bytes| {
                bytes[16..24].copy_from_slice(&(1_u64 << 20).to_le_bytes())
            });
        },
    ),
    case(
        "more tensors than there are",
        &[FILE, "of its 100 tensors"],
        |folder| {
            edit(folder, FILE, |bytes| {
                bytes[8..16].copy_from_slice(&100_u64.to_le_bytes())
            });
        },
    ),
    case(
        "cut within the magic",
        &[FILE, "does not begin with `GGUF`"],
        |folder| {
            edit(folder, FILE, |bytes| bytes.truncate(3));
        },
    ),
    case(
        "cut within the counts",
        &[FILE, "it ends within its header, at byte 20"],
        |folder| {
            edit(folder, FILE, |bytes| bytes.truncate(20));
        },
    ),
    case(
        "cut within a key",
        &[FILE, "metadata", "beyond the end of the file"],
        |folder| {
            cut(folder, "llama.block_c", 0);
        },
    ),
    case(
        "cut within a value",
        &[FILE, BLOCK_COUNT, "it ends within its header"],
        |folder| {
            cut(folder, BLOCK_COUNT, 6);
        },
    ),
    case(
        "cut within a list",
        &[FILE, TOKENS, "a list claims 320 values"],
        |folder| {
            cut(folder, TOKENS, 30);
        },
    ),
    case("cut within a string of a list", &[FILE, TOKENS], |folder| {
        cut(folder, TOKENS, 3000);
    }),
    case(
        "cut within a tensor's entry",
        &[FILE, "entry", "tensors", "it ends within its header"],
        |folder| {
            cut(folder, QUERY, 10);
        },
    ),
    case(
        "cut within the data",
        &[FILE, "beyond the end of the file: is it complete?"],
        |folder| {
            edit(folder, FILE, |bytes| bytes.truncate(bytes.len() - 4000));
        },
    ),
];

const METADATA: &[Case] = &[
    case(
        "a value of an unknown type",
        &[FILE, BLOCK_COUNT, "value type 99 is unknown"],
        |folder| {
            patch(folder, BLOCK_COUNT, 0, &99_u32.to_le_bytes());
        },
    ),
    case(
        "a string of 2^60 bytes",
        &[
            FILE,
            "general.architecture",
            "claims 1152921504606846976 bytes",
        ],
        |folder| {
            patch(
                folder,
                "general.architecture",
                4,
                &(1_u64 << 60).to_le_bytes(),
            );
        },
    ),
    case(
        "a list of 2^50 values",
        &[FILE, TOKENS, "a list claims 1125899906842624 values"],
        |folder| {
            patch(folder, TOKENS, 8, &(1_u64 << 50).to_le_bytes());
        },
    ),
    case(
        "a list of lists",
        &[FILE, TOKENS, "a list of lists is not supported"],
        |folder| {
            patch(folder, TOKENS, 4, &9_u32.to_le_bytes());
        },
    ),
    case(
        "a boolean of 7",
        &[FILE, "tokenizer.ggml.add_bos_token", "a boolean is 7"],
        |folder| {
            patch(folder, "tokenizer.ggml.add_bos_token", 4, &[7]);
        },
    ),
    case(
        "a string that is not UTF-8",
        &[FILE, "general.name", "is not UTF-8"],
        |folder| {
            patch(folder, "general.name", 12, &[0xff]);
        },
    ),
    case(
        "a key with a line break",
        &[FILE, "without control characters"],
        |folder| {
            rename(folder, BLOCK_COUNT, "llama\nblock_count");
        },
    ),
    case(
        "a key twice",
        &[FILE, "`llama.vocab_size` is there twice"],
        |folder| {
            rename(folder, BLOCK_COUNT, "llama.vocab_size\u{20}");
            edit(folder, FILE, |bytes| {
                // One byte less of the key, one more of nothing: the length stands 8 bytes before it.
                let at = find(bytes, "llama.vocab_size\u{20}");
                bytes[at - 8] -= 1;
                bytes.remove(at + "llama.vocab_size".len());
            });
        },
    ),
    case(
        "another architecture",
        &[FILE, "general.architecture", "`mamba`"],
        |folder| {
            patch(folder, "general.architecture", 12, b"mamba");
        },
    ),
    case(
        "2^31 layers",
        &[
            FILE,
            "number of layers is 2147483648, expected at most 4096",
        ],
        |folder| {
            patch(folder, BLOCK_COUNT, 4, &(1_u32 << 31).to_le_bytes());
        },
    ),
    case(
        "no layers",
        &[FILE, BLOCK_COUNT, "it is 0, expected a positive integer"],
        |folder| {
            patch(folder, BLOCK_COUNT, 4, &0_u32.to_le_bytes());
        },
    ),
    case(
        "a missing key",
        &[FILE, "llama.feed_forward_length", "it is absent"],
        |folder| {
            rename(
                folder,
                "llama.feed_forward_length",
                "other.feed_forward_length",
            );
        },
    ),
    case(
        "an unknown key",
        &[FILE, "llama.swap_size", "does not know the key"],
        |folder| {
            rename(folder, "llama.vocab_size", "llama.swap_sizes");
        },
    ),
    case("an infinite epsilon", &[FILE, "epsilon"], |folder| {
        patch(
            folder,
            "llama.attention.layer_norm_rms_epsilon",
            4,
            &f32::INFINITY.to_le_bytes(),
        );
    }),
    case(
        "a rotation of another size",
        &[FILE, "llama.rope.dimension_count", "it is 12"],
        |folder| {
            patch(
                folder,
                "llama.rope.dimension_count",
                4,
                &12_u32.to_le_bytes(),
            );
        },
    ),
    case(
        "no tokens",
        &["tokenizer.ggml.tokens", "it is absent"],
        |folder| {
            rename(folder, TOKENS, "tokenizer.ggml.tokenz");
        },
    ),
    case(
        "an unknown model of the tokenizer",
        &["tokenizer.ggml.model", "`gpt9`"],
        |folder| {
            patch(folder, "tokenizer.ggml.model", 12, b"gpt9");
        },
    ),
    case(
        "an unknown pre-tokenizer",
        &["tokenizer.ggml.pre", "`smolll`"],
        |folder| {
            patch(folder, "tokenizer.ggml.pre", 12, b"smolll");
        },
    ),
    case(
        "an end token beyond the vocabulary",
        &["tokenizer.ggml.eos_token_id", "it is 9999"],
        |folder| {
            patch(
                folder,
                "tokenizer.ggml.eos_token_id",
                4,
                &9999_u32.to_le_bytes(),
            );
        },
    ),
    case(
        "a merge without a space",
        &["tokenizer.ggml.merges", "has no space"],
        |folder| {
            after(folder, "tokenizer.ggml.merges", |bytes| {
                let space = bytes.iter().position(|byte| *byte == b' ').unwrap();
                bytes[space] = b'_';
            });
        },
    ),
];

const TENSORS: &[Case] = &[
    case(
        "nine dimensions",
        &[FILE, QUERY, "9 dimensions, expected at most 4"],
        |folder| {
            patch(folder, QUERY, 0, &9_u32.to_le_bytes());
        },
    ),
    case(
        "rows of a broken block",
        &[
            FILE,
            QUERY,
            "rows of 63 elements, expected a multiple of 32",
        ],
        |folder| {
            patch(folder, QUERY, 4, &63_u64.to_le_bytes());
        },
    ),
    case(
        "a size beyond 64 bits",
        &[FILE, QUERY, "larger than this machine can hold"],
        |folder| {
            patch(folder, QUERY, 4, &(1_u64 << 62).to_le_bytes());
        },
    ),
    case(
        "an unknown type",
        &[FILE, QUERY, "type number 77"],
        |folder| {
            patch(folder, QUERY, 20, &77_u32.to_le_bytes());
        },
    ),
    case(
        "a type that is not supported",
        &[FILE, QUERY, "has type IQ4_NL, expected F32", "Q6_K"],
        |folder| {
            patch(folder, QUERY, 20, &20_u32.to_le_bytes());
        },
    ),
    case(
        "an offset that is not aligned",
        &[FILE, QUERY, "expected a multiple of 32"],
        |folder| {
            patch(folder, QUERY, 24, &1_u64.to_le_bytes());
        },
    ),
    case(
        "two tensors over each other",
        &[FILE, "overlaps"],
        |folder| {
            patch(folder, QUERY, 24, &0_u64.to_le_bytes());
        },
    ),
    case(
        "an offset beyond the file",
        &[FILE, QUERY, "beyond the end of the file"],
        |folder| {
            patch(folder, QUERY, 24, &(1_u64 << 40).to_le_bytes());
        },
    ),
    case(
        "an offset at the end of 64 bits",
        &[FILE, QUERY, "beyond the end of the file"],
        |folder| {
            patch(folder, QUERY, 24, &(u64::MAX - 31).to_le_bytes());
        },
    ),
    case(
        "a missing tensor",
        &[FILE, "no tensor is named `output_norm.weight`"],
        |folder| {
            rename(folder, NORM, "output_morn.weight");
        },
    ),
    case(
        "a tensor twice",
        &[FILE, "`blk.0.attn_v.weight` is there twice"],
        |folder| {
            rename(folder, QUERY, "blk.0.attn_v.weight");
        },
    ),
    case(
        "another shape",
        &[FILE, QUERY, "it has shape [32, 128], expected [64, 64]"],
        |folder| {
            patch(folder, QUERY, 4, &128_u64.to_le_bytes());
            patch(folder, QUERY, 12, &32_u64.to_le_bytes());
        },
    ),
    case(
        "a scale that is no number",
        &[FILE, QUERY, "is infinite or no number"],
        |folder| {
            edit(folder, FILE, |bytes| {
                let (name, entry) = (find(bytes, QUERY), QUERY.len() + 24);
                let offset: [u8; 8] = bytes[name + entry..name + entry + 8].try_into().unwrap();
                let data = end_of_header(bytes).next_multiple_of(32);
                let scale = data + u64::from_le_bytes(offset) as usize;
                bytes[scale..scale + 2].copy_from_slice(&0x7e00_u16.to_le_bytes());
            });
        },
    ),
];

/// Where the header of the fixture ends: after the entry of its last tensor, which has one dimension.
fn end_of_header(bytes: &[u8]) -> usize {
    find(bytes, NORM) + NORM.len() + 4 + 8 + 4 + 8
}
