//! Bases saved in 4 bits whose parts do not belong together.

use serde_json::{Value, json};

use crate::table::{
    Case, WEIGHTS, case, edit_header, edit_header_text, edit_json, overwrite, refuse_all,
};

const KEY: &str = "model.layers.0.self_attn.k_proj.weight";
/// The matrix that is looked at first.
const FIRST: &str = "model.layers.0.mlp.down_proj.weight";
const STATE: &str = "model.layers.0.self_attn.k_proj.weight.quant_state.bitsandbytes__nf4";

#[test]
fn parts_that_do_not_belong_together_are_refused_by_tensor() {
    refuse_all("tiny-llama-64-nf4", DOUBLE);
    refuse_all("tiny-llama-64-fp4", PLAIN);
}

fn quantization(folder: &std::path::Path, key: &str, value: Value) {
    edit_json(folder, "config.json", |keys| {
        keys["quantization_config"][key] = value;
    });
}

const DOUBLE: &[Case] = &[
    case(
        "a broken JSON object",
        &[WEIGHTS, KEY, "quant_state"],
        |folder| {
            overwrite(folder, STATE, 0, b"[");
        },
    ),
    case(
        "blocks of another size",
        &[WEIGHTS, KEY, "blocks have 65 values, expected 64"],
        |folder| {
            // {"quant_type": "nf4", "blocksize": 64, …
            overwrite(folder, STATE, 36, b"5");
        },
    ),
    case(
        "another table",
        &[WEIGHTS, KEY, "`quant_map` is not that of NF4"],
        |folder| {
            overwrite(
                folder,
                &format!("{KEY}.quant_map"),
                4,
                &0.5_f32.to_le_bytes(),
            );
        },
    ),
    case(
        "a scale of scales that is no number",
        &[WEIGHTS, KEY, "nested_absmax"],
        |folder| {
            overwrite(
                folder,
                &format!("{KEY}.nested_absmax"),
                0,
                &f32::NAN.to_le_bytes(),
            );
        },
    ),
    case(
        "a missing part",
        &[WEIGHTS, KEY, "nested_absmax", "is missing"],
        |folder| {
            edit_header_text(folder, |text| {
                text.replace(&format!("{KEY}.nested_absmax"), "x.rotary_emb.inv_freq")
                    .into_bytes()
            });
        },
    ),
    case(
        "a part without a matrix",
        &["has no place in this architecture"],
        |folder| {
            edit_header(folder, |header| {
                let empty = json!({"dtype": "U8", "shape": [0], "data_offsets": [0, 0]});
                header.insert("model.norm.weight.absmax".to_owned(), empty);
            });
        },
    ),
    case(
        "another shape",
        &[WEIGHTS, KEY, "bytes of codes, expected"],
        |folder| {
            // … "shape": [32, 64], …
            overwrite(folder, STATE, 70, b"9");
        },
    ),
    case(
        "another code",
        &[WEIGHTS, FIRST, "bitsandbytes__fp4", "is missing"],
        |folder| {
            quantization(folder, "bnb_4bit_quant_type", "fp4".into());
        },
    ),
    case(
        "plain scales",
        &[WEIGHTS, FIRST, "not as config.json says"],
        |folder| {
            quantization(folder, "bnb_4bit_use_double_quant", false.into());
        },
    ),
    case("an unknown key", &["config.json", "`bnb_3bit`"], |folder| {
        quantization(folder, "bnb_3bit", true.into());
    }),
    case(
        "no word of it in the configuration",
        &["has no `quantization_config`", FIRST],
        |folder| {
            edit_json(folder, "config.json", |keys| {
                drop(keys.remove("quantization_config"));
            });
        },
    ),
];

const PLAIN: &[Case] = &[
    case(
        "a scale that is no number",
        &[WEIGHTS, KEY, "absmax", "element 3"],
        |folder| {
            overwrite(
                folder,
                &format!("{KEY}.absmax"),
                12,
                &f32::INFINITY.to_le_bytes(),
            );
        },
    ),
    case(
        "an infinite norm",
        &[WEIGHTS, "model.norm.weight", "element [0]"],
        |folder| {
            overwrite(folder, "model.norm.weight", 0, &f32::INFINITY.to_le_bytes());
        },
    ),
];
