//! Safetensors files whose bytes, header or tensors are not what they should be.

use serde_json::{Value, json};

use crate::table::{
    Case, WEIGHTS, case, edit, edit_header, edit_header_text, overwrite, refuse_all,
};

const NORM: &str = "model.norm.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

#[test]
fn broken_bytes_are_refused_by_file_and_place() {
    refuse_all("tiny-llama", BYTES);
}

#[test]
fn broken_headers_are_refused_by_file_and_tensor() {
    refuse_all("tiny-llama", HEADERS);
}

#[test]
fn tensors_that_do_not_fit_the_model_are_refused_by_name() {
    refuse_all("tiny-llama", TENSORS);
}

const BYTES: &[Case] = &[
    case("empty", &[WEIGHTS, "it has 0 bytes"], |folder| {
        edit(folder, WEIGHTS, Vec::clear);
    }),
    case("seven bytes", &[WEIGHTS, "it has 7 bytes"], |folder| {
        edit(folder, WEIGHTS, |bytes| bytes.truncate(7));
    }),
    case(
        "a header of 2^63 bytes",
        &[WEIGHTS, "its header claims 9223372036854775808 bytes"],
        |folder| {
            edit(folder, WEIGHTS, |bytes| {
                bytes[..8].copy_from_slice(&(1_u64 << 63).to_le_bytes());
            });
        },
    ),
    case(
        "cut within the header",
        &[WEIGHTS, "its header claims", "is the file complete?"],
        |folder| edit(folder, WEIGHTS, |bytes| bytes.truncate(100)),
    ),
    case(
        "cut within the data",
        &[WEIGHTS, NORM, "beyond the end of the file"],
        |folder| edit(folder, WEIGHTS, |bytes| bytes.truncate(bytes.len() - 10)),
    ),
    case(
        "bytes after the last tensor",
        &[WEIGHTS, "at the end of the file, belong to no tensor"],
        |folder| edit(folder, WEIGHTS, |bytes| bytes.extend([0; 64])),
    ),
    case(
        "a header that is not UTF-8",
        &[WEIGHTS, "not UTF-8 at byte 10 of the file"],
        |folder| edit(folder, WEIGHTS, |bytes| bytes[10] = 0xff),
    ),
    case(
        "a pickle by its magic",
        &[WEIGHTS, "it is a pickle", "save_pretrained"],
        |folder| {
            edit(folder, WEIGHTS, |bytes| {
                *bytes = b"PK\x03\x04archive/data.pkl".to_vec()
            })
        },
    ),
    case(
        "an old pickle by its magic",
        &[WEIGHTS, "it is a pickle"],
        |folder| {
            edit(folder, WEIGHTS, |bytes| {
                *bytes = b"\x80\x02}q\x00X".to_vec()
            })
        },
    ),
    case(
        "a pointer of Git LFS",
        &[WEIGHTS, "Git LFS", "git lfs pull"],
        |folder| {
            edit(folder, WEIGHTS, |bytes| {
                *bytes = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".to_vec();
            });
        },
    ),
    case("a web page", &[WEIGHTS, "web server"], |folder| {
        edit(folder, WEIGHTS, |bytes| {
            *bytes = b"<!DOCTYPE html><html>Not Found</html>".to_vec();
        });
    }),
    case("a GGUF file", &[WEIGHTS, "it is a GGUF file"], |folder| {
        edit(folder, WEIGHTS, |bytes| *bytes = b"GGUF\x03\0\0\0".to_vec());
    }),
];

const HEADERS: &[Case] = &[
    case("no JSON", &[WEIGHTS, "its header: "], |folder| {
        edit_header_text(folder, |text| text.replacen(':', ";", 1).into_bytes());
    }),
    case(
        "a list",
        &[WEIGHTS, "its header does not begin with `{`"],
        |folder| edit_header_text(folder, |_| b"[]".to_vec()),
    ),
    case(
        "a hundred thousand lists in lists",
        &[WEIGHTS, "`a`"],
        |folder| {
            edit_header_text(folder, |_| {
                format!("{{\"a\":{}", "[".repeat(100_000)).into_bytes()
            });
        },
    ),
    case(
        "a tensor twice",
        &[WEIGHTS, "tensor `model.norm.weight` is there twice"],
        |folder| {
            edit_header_text(folder, |text| {
                let entries: Value = serde_json::from_str(&text).unwrap();
                let again = format!("{{\"{NORM}\":{},", entries[NORM]);
                text.replacen('{', &again, 1).into_bytes()
            });
        },
    ),
    case(
        "an unknown type",
        &[WEIGHTS, NORM, "unknown variant `F99`"],
        |folder| edit_header(folder, |header| header[NORM]["dtype"] = "F99".into()),
    ),
    case(
        "an unknown field",
        &[WEIGHTS, NORM, "unknown field `code`"],
        |folder| edit_header(folder, |header| header[NORM]["code"] = "import os".into()),
    ),
    case(
        "a negative size",
        &[WEIGHTS, NORM, "invalid value: integer `-32`"],
        |folder| edit_header(folder, |header| header[NORM]["shape"] = json!([-32])),
    ),
    case(
        "nine dimensions",
        &[WEIGHTS, NORM, "9 dimensions, expected at most 8"],
        |folder| {
            edit_header(folder, |header| {
                header[NORM]["shape"] = json!([32, 1, 1, 1, 1, 1, 1, 1, 1]);
            });
        },
    ),
    case(
        "a product of sizes beyond 64 bits",
        &[WEIGHTS, NORM, "larger than this machine can hold"],
        |folder| {
            edit_header(folder, |header| {
                header[NORM]["shape"] = json!([1_u64 << 33, 1_u64 << 33]);
            });
        },
    ),
    case(
        "fewer bytes than the shape calls for",
        &[
            WEIGHTS,
            NORM,
            "takes 128 bytes, expected 132 for F32 of shape [33]",
        ],
        |folder| edit_header(folder, |header| header[NORM]["shape"] = json!([33])),
    ),
    case(
        "two tensors over each other",
        &[WEIGHTS, NORM, "overlaps"],
        |folder| {
            edit_header(folder, |header| {
                let other = header["model.layers.0.input_layernorm.weight"]["data_offsets"].clone();
                header[NORM]["data_offsets"] = other;
            });
        },
    ),
    case(
        "an end before the beginning",
        &[WEIGHTS, NORM, "before its beginning"],
        |folder| {
            edit_header(folder, |header| {
                header[NORM]["data_offsets"] = json!([128, 0])
            })
        },
    ),
    case(
        "offsets beyond 64 bits",
        &[WEIGHTS, NORM, "number out of range"],
        |folder| {
            edit_header_text(folder, |text| {
                let entries: Value = serde_json::from_str(&text).unwrap();
                let offsets = entries[NORM]["data_offsets"].to_string();
                text.replace(&offsets, "[0,1e400]").into_bytes()
            });
        },
    ),
    case(
        "offsets at the end of 64 bits",
        &[WEIGHTS, NORM, "belong to no tensor"],
        |folder| {
            edit_header(folder, |header| {
                header[NORM]["data_offsets"] = json!([u64::MAX - 128, u64::MAX]);
            });
        },
    ),
    case("an empty name", &[WEIGHTS, "is named \"\""], |folder| {
        edit_header_text(folder, |text| text.replace(NORM, "").into_bytes());
    }),
    case(
        "a name with control characters",
        &[WEIGHTS, "without control characters"],
        |folder| {
            edit_header_text(folder, |text| {
                text.replace(NORM, "a\\u001b[2J").into_bytes()
            })
        },
    ),
    case(
        "a name of 2000 bytes",
        &[WEIGHTS, "expected 1 to 1024 bytes"],
        |folder| {
            edit_header_text(folder, |text| {
                text.replace(NORM, &"a".repeat(2000)).into_bytes()
            });
        },
    ),
    case(
        "metadata that is no text",
        &[WEIGHTS, "`__metadata__`", "expected a string"],
        |folder| {
            edit_header(folder, |header| {
                header["__metadata__"] = json!({"format": [1]})
            })
        },
    ),
];

const TENSORS: &[Case] = &[
    case(
        "whole numbers",
        &[WEIGHTS, NORM, "has type I32, expected F32, F16 or BF16"],
        |folder| edit_header(folder, |header| header[NORM]["dtype"] = "I32".into()),
    ),
    case(
        "a weight that is no number",
        &[
            WEIGHTS,
            EMBEDDING,
            "element [2, 3] is infinite or no number",
        ],
        |folder| overwrite(folder, EMBEDDING, 4 * (2 * 32 + 3), &f32::NAN.to_le_bytes()),
    ),
    case(
        "an infinite norm",
        &[WEIGHTS, NORM, "element [31] is infinite or no number"],
        |folder| overwrite(folder, NORM, 4 * 31, &f32::NEG_INFINITY.to_le_bytes()),
    ),
    case(
        "a missing tensor",
        &[
            "tensor `model.norm.weight`",
            "it is missing, expected shape [32]",
            WEIGHTS,
        ],
        |folder| {
            edit_header_text(folder, |text| {
                text.replace(NORM, "model.norm.rotary_emb.inv_freq")
                    .into_bytes()
            });
        },
    ),
    case(
        "a tensor too many",
        &[
            WEIGHTS,
            "tensor `extra.weight`",
            "has no place in this architecture",
        ],
        |folder| {
            edit_header(folder, |header| {
                header.insert(
                    "extra.weight".to_owned(),
                    json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
                );
            });
        },
    ),
    case(
        "a transposed matrix",
        &[
            WEIGHTS,
            "layers.0.mlp.up_proj.weight",
            "it has shape [32, 48], expected [48, 32]",
        ],
        |folder| {
            edit_header(folder, |header| {
                header["model.layers.0.mlp.up_proj.weight"]["shape"] = json!([32, 48]);
            });
        },
    ),
];
