//! Folders whose configuration, tokenizer, index or choice of files is not what it should be.

use serde_json::{Value, json};

use crate::table::{Case, WEIGHTS, case, edit, edit_json, refuse_all};

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

#[test]
fn weights_in_other_forms_are_refused_by_file() {
    refuse_all("tiny-llama", FILES);
}

#[test]
fn broken_indexes_and_path_tricks_are_refused_by_file() {
    refuse_all("tiny-llama-sharded", INDEXES);
}

#[test]
fn absurd_configurations_are_refused_by_key() {
    refuse_all("tiny-llama", CONFIGURATIONS);
}

#[test]
fn broken_tokenizers_are_refused_by_file() {
    refuse_all("tiny-llama", TOKENIZERS);
}

const FILES: &[Case] = &[
    case(
        "a pickle in place of the weights",
        &["pytorch_model.bin is a pickle", WEIGHTS, "save_pretrained"],
        |folder| std::fs::rename(folder.join(WEIGHTS), folder.join("pytorch_model.bin")).unwrap(),
    ),
    case(
        "a pickle of another name",
        &["consolidated.00.PTH is a pickle", "save_pretrained"],
        |folder| {
            std::fs::rename(folder.join(WEIGHTS), folder.join("consolidated.00.PTH")).unwrap();
        },
    ),
    case(
        "no weights",
        &["neither model.safetensors nor model.safetensors.index.json"],
        |folder| std::fs::remove_file(folder.join(WEIGHTS)).unwrap(),
    ),
];

const INDEXES: &[Case] = &[
    case("an index that is no JSON", &[INDEX, "EOF"], |folder| {
        edit(folder, INDEX, |bytes| bytes.truncate(40));
    }),
    case("an index without a map", &[INDEX, "weight_map"], |folder| {
        edit_json(folder, INDEX, |keys| drop(keys.remove("weight_map")));
    }),
    case(
        "an empty map",
        &[INDEX, "`weight_map` is empty"],
        |folder| {
            edit_json(folder, INDEX, |keys| keys["weight_map"] = json!({}));
        },
    ),
    case(
        "a file that is a number",
        &[INDEX, "invalid type"],
        |folder| {
            edit_json(folder, INDEX, |keys| keys["weight_map"]["a"] = 1.into());
        },
    ),
    case(
        "a file outside",
        &[INDEX, "\"../model-1.safetensors\""],
        |folder| {
            edit_json(folder, INDEX, |keys| {
                keys["weight_map"]["a"] = "../model-1.safetensors".into();
            });
        },
    ),
    case(
        "a way out and in again",
        &[INDEX, "\"model-/../../x.safetensors\""],
        |folder| {
            edit_json(folder, INDEX, |keys| {
                keys["weight_map"]["a"] = "model-/../../x.safetensors".into();
            });
        },
    ),
    case("an absolute path", &[INDEX, "\"/etc/passwd\""], |folder| {
        edit_json(folder, INDEX, |keys| {
            keys["weight_map"]["a"] = "/etc/passwd".into()
        });
    }),
    case(
        "backslashes",
        &[INDEX, "model-..\\\\..\\\\x.safetensors"],
        |folder| {
            edit_json(folder, INDEX, |keys| {
                keys["weight_map"]["a"] = "model-..\\..\\x.safetensors".into();
            });
        },
    ),
    case(
        "a zero byte in a name",
        &[INDEX, "model-\\0.safetensors"],
        |folder| {
            edit_json(folder, INDEX, |keys| {
                keys["weight_map"]["a"] = "model-\0.safetensors".into();
            });
        },
    ),
    case(
        "a pickle among the shards",
        &[INDEX, "\"pytorch_model-1.bin\""],
        |folder| {
            edit_json(folder, INDEX, |keys| {
                keys["weight_map"]["a"] = "pytorch_model-1.bin".into()
            });
        },
    ),
    case(
        "a shard that is not there",
        &["model-00003-of-00003.safetensors", "No such file"],
        |folder| {
            edit_json(folder, INDEX, |keys| {
                keys["weight_map"]["a"] = "model-00003-of-00003.safetensors".into();
            });
        },
    ),
    case("a tensor in two shards", &["is in two files"], |folder| {
        let copy = "model-00003-of-00003.safetensors";
        let first = folder.join("model-00001-of-00002.safetensors");
        std::fs::copy(first, folder.join(copy)).unwrap();
        edit_json(folder, INDEX, |keys| keys["weight_map"]["a"] = copy.into());
    }),
];

fn set(folder: &std::path::Path, key: &str, value: Value) {
    edit_json(folder, CONFIG, |keys| {
        keys.insert(key.to_owned(), value);
    });
}

const CONFIGURATIONS: &[Case] = &[
    case("no configuration", &[CONFIG, "No such file"], |folder| {
        std::fs::remove_file(folder.join(CONFIG)).unwrap();
    }),
    case("a configuration cut short", &[CONFIG, "EOF"], |folder| {
        edit(folder, CONFIG, |bytes| bytes.truncate(30));
    }),
    case("a configuration that is not UTF-8", &[CONFIG], |folder| {
        edit(folder, CONFIG, |bytes| bytes[3] = 0xff);
    }),
    case(
        "a configuration that is a list",
        &[CONFIG, "invalid type"],
        |folder| {
            edit(folder, CONFIG, |bytes| *bytes = b"[1]".to_vec());
        },
    ),
    case(
        "four thousand million layers",
        &[
            CONFIG,
            "number of layers is 4000000000, expected at most 4096",
        ],
        |folder| set(folder, "num_hidden_layers", 4_000_000_000_u64.into()),
    ),
    case(
        "a hidden size of 2^32",
        &[
            CONFIG,
            "hidden size is 4294967296, expected at most 1048576",
        ],
        |folder| set(folder, "hidden_size", (1_u64 << 32).into()),
    ),
    case(
        "a size of 2^63",
        &[CONFIG, "hidden_size", "9223372036854775808"],
        |folder| {
            set(folder, "hidden_size", (1_u64 << 63).into());
        },
    ),
    case(
        "heads that are too wide together",
        &[CONFIG, "width of all heads"],
        |folder| {
            set(folder, "num_attention_heads", (1 << 20).into());
            set(folder, "head_dim", (1 << 20).into());
        },
    ),
    case(
        "no heads",
        &[CONFIG, "num_attention_heads", "it is 0"],
        |folder| {
            set(folder, "num_attention_heads", 0.into());
        },
    ),
    case(
        "a negative vocabulary",
        &[CONFIG, "vocab_size", "it is -1"],
        |folder| {
            set(folder, "vocab_size", (-1).into());
        },
    ),
    case(
        "half a unit",
        &[CONFIG, "intermediate_size", "it is 48.5"],
        |folder| {
            set(folder, "intermediate_size", json!(48.5));
        },
    ),
    case(
        "a number as text",
        &[CONFIG, "num_hidden_layers", "it is \"3\""],
        |folder| {
            set(folder, "num_hidden_layers", "3".into());
        },
    ),
    case("an odd head size", &[CONFIG, "head size is 7"], |folder| {
        set(folder, "head_dim", 7.into());
    }),
    case(
        "heads that cannot be shared",
        &[CONFIG, "cannot share 3"],
        |folder| {
            set(folder, "num_key_value_heads", 3.into());
        },
    ),
    case(
        "a negative epsilon",
        &[CONFIG, "rms_norm_eps", "it is -1"],
        |folder| {
            set(folder, "rms_norm_eps", json!(-1.0));
        },
    ),
    case(
        "an epsilon of 1e300",
        &[CONFIG, "epsilon of the norms"],
        |folder| {
            set(folder, "rms_norm_eps", json!(1e300));
        },
    ),
    case("an unknown key", &[CONFIG, "`logit_bias`"], |folder| {
        set(folder, "logit_bias", 2.into());
    }),
    case(
        "another method of quantisation",
        &[CONFIG, "\"gptq\"", "bitsandbytes"],
        |folder| {
            set(
                folder,
                "quantization_config",
                json!({"quant_method": "gptq", "bits": 4}),
            );
        },
    ),
    case("8 bits", &[CONFIG, "8 bits are not supported"], |folder| {
        let keys = json!({"quant_method": "bitsandbytes", "load_in_8bit": true});
        set(folder, "quantization_config", keys);
    }),
    case(
        "4 bits that are not there",
        &["no tensor is in 4 bits"],
        |folder| {
            let keys = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
            set(folder, "quantization_config", keys);
        },
    ),
    case(
        "a vocabulary of another tokenizer",
        &["320 tokens", "10"],
        |folder| {
            set(folder, "vocab_size", 10.into());
        },
    ),
];

const TOKENIZERS: &[Case] = &[
    case("no tokenizer", &[TOKENIZER, "neither"], |folder| {
        std::fs::remove_file(folder.join(TOKENIZER)).unwrap();
    }),
    case("a tokenizer cut short", &[TOKENIZER], |folder| {
        edit(folder, TOKENIZER, |bytes| bytes.truncate(500));
    }),
    case("a tokenizer that is not UTF-8", &[TOKENIZER], |folder| {
        edit(folder, TOKENIZER, |bytes| bytes[20] = 0xff);
    }),
    case("an empty tokenizer", &[TOKENIZER], |folder| {
        edit(folder, TOKENIZER, |bytes| *bytes = b"{}".to_vec());
    }),
    case(
        "a normalizer over which the library panics",
        &[TOKENIZER, "breaks down over a text", "normalizer"],
        |folder| {
            edit_json(folder, TOKENIZER, |keys| {
                keys["normalizer"] = json!({ "type": "Replace", "pattern": { "String": "" }, "content": "aaaaaaaa" });
            });
        },
    ),
    case(
        "settings that are a list",
        &[TOKENIZER_CONFIG, "invalid type"],
        |folder| {
            edit(folder, TOKENIZER_CONFIG, |bytes| *bytes = b"[]".to_vec());
        },
    ),
    case(
        "an end token that no token is",
        &[TOKENIZER_CONFIG, "eos_token", "</nothing>"],
        |folder| {
            edit_json(folder, TOKENIZER_CONFIG, |keys| {
                keys["eos_token"] = "</nothing>".into()
            })
        },
    ),
    case(
        "an end token that is a number",
        &[TOKENIZER_CONFIG, "eos_token"],
        |folder| {
            edit_json(folder, TOKENIZER_CONFIG, |keys| {
                keys["eos_token"] = 2.into()
            });
        },
    ),
    case(
        "a template that is not UTF-8",
        &["chat_template.jinja", "UTF-8"],
        |folder| {
            std::fs::write(folder.join("chat_template.jinja"), [0xff, 0xfe]).unwrap();
        },
    ),
    case(
        "a stop token below zero",
        &["generation_config.json", "-1"],
        |folder| {
            std::fs::write(
                folder.join("generation_config.json"),
                r#"{"eos_token_id": [2, -1]}"#,
            )
            .unwrap();
        },
    ),
];
