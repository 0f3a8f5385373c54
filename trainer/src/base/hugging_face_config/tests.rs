//! Configurations as published checkpoints have them, and what is refused in them.

use finetune_numerics::architecture::{NormPlaces, QueryKeyNorms};
use finetune_numerics::ops::gated::Activation;
use finetune_numerics::ops::rope::Scaling;
use rstest::rstest;
use serde_json::json;

use super::*;

fn smollm2() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041_666,
        "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_interleaved": false, "rope_scaling": null,
        "rope_theta": 100_000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers.js_config": { "dtype": "q4" }, "transformers_version": "4.42.3", "use_cache": true,
        "vocab_size": 49152,
    })
}

/// The smallest configuration of a family, whose sizes say nothing.
fn small(architecture: &str) -> Value {
    json!({
        "architectures": [architecture], "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
        "num_hidden_layers": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 64,
    })
}

fn with(mut keys: Value, changes: &Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        keys[key] = value.clone();
    }
    keys
}

fn config(value: &Value) -> Result<ModelConfig, Error> {
    parse(value.as_object().unwrap().clone())
}

#[test]
fn the_configuration_of_a_real_model_is_read() {
    let config = config(&smollm2()).unwrap();
    assert_eq!((config.head_dim, config.key_value_heads), (64, 3));
    assert!((config.rope.theta - 100_000.0).abs() < 1e-9);
    assert!(config.tied_embeddings);
    assert_eq!(config.parameters(), 134_515_008);
}

/// Sizes from the model cards: what a wrong default or a wrong bias would change.
#[rstest]
#[case(json!({ // Llama 3.2 1B
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
    "intermediate_size": 8192, "max_position_embeddings": 131_072, "mlp_bias": false, "num_attention_heads": 32,
    "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_scaling": {"factor": 32.0,
    "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500_000.0, "tie_word_embeddings": true, "vocab_size": 128_256,
}), 1_235_814_400)]
#[case(json!({ // Mistral 7B v0.1
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": false, "vocab_size": 32000,
}), 7_241_732_096)]
#[case(json!({ // Qwen2.5 0.5B
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 896,
    "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24, "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
    "sliding_window": 32768, "tie_word_embeddings": true, "use_mrope": false, "use_sliding_window": false,
    "vocab_size": 151_936,
}), 494_032_768)]
#[case(json!({ // Qwen3 0.6B
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
    "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1_000_000, "sliding_window": null,
    "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151_936,
}), 596_049_920)]
#[case(json!({ // Gemma 2B
    "architectures": ["GemmaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "head_dim": 256,
    "hidden_act": "gelu", "hidden_activation": null, "hidden_size": 2048, "intermediate_size": 16384,
    "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 10000.0, "vocab_size": 256_000,
}), 2_506_172_416)]
#[case(json!({ // Gemma 2 2B
    "architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
    "intermediate_size": 9216, "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26,
    "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "sliding_window": 4096, "vocab_size": 256_000,
}), 2_614_341_888)]
#[case(json!({ // Gemma 3 4B, whose heads are the defaults of the class; its language model alone
    "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255_999, "eoi_token_index": 256_000,
    "eos_token_id": [1, 106], "image_token_index": 262_144, "mm_tokens_per_image": 256, "model_type": "gemma3",
    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
    "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}), 3_880_263_168)]
#[case(json!({ // Phi-4 mini
    "architectures": ["Phi3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "embd_pdrop": 0.0,
    "full_attn_mod": 1, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192, "interpolate_factor": 1,
    "lm_head_bias": false, "max_position_embeddings": 131_072, "mlp_bias": false, "num_attention_heads": 24,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-5, "rope_scaling": {"long_factor": vec![2.0; 48],
    "short_factor": vec![1.0; 48], "type": "longrope"}, "rope_theta": 10000.0, "sliding_window": 262_144,
    "tie_word_embeddings": true, "vocab_size": 200_064,
}), 3_836_021_760)]
#[case(json!({ // OLMo 2 1B
    "architectures": ["Olmo2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 16,
    "num_hidden_layers": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-6, "rope_scaling": null,
    "rope_theta": 500_000, "tie_word_embeddings": false, "vocab_size": 100_352,
}), 1_484_916_736)]
#[case(json!({ // Granite 3.1 2B
    "architectures": ["GraniteForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "attention_multiplier": 0.015_625, "embedding_multiplier": 12.0, "hidden_act": "silu", "hidden_size": 2048,
    "intermediate_size": 8192, "logits_scaling": 8.0, "max_position_embeddings": 131_072, "mlp_bias": false,
    "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-5, "rope_scaling": null, "rope_theta": 5_000_000.0, "tie_word_embeddings": true,
    "vocab_size": 49155,
}), 2_533_531_648)]
fn published_configurations_give_the_published_sizes(#[case] keys: Value, #[case] parameters: i64) {
    assert_eq!(config(&keys).unwrap().parameters(), parameters);
}

#[test]
fn absent_keys_mean_what_they_mean_to_the_family() {
    let of = |architecture: &str| config(&small(architecture)).unwrap();
    assert_eq!(of("LlamaForCausalLM").windows, None);
    let windows = of("MistralForCausalLM").windows.unwrap();
    assert_eq!((windows.size, windows.layers), (4096, vec![true; 4]));
    let biases = of("Qwen2ForCausalLM").biases;
    assert!(biases.attention && !biases.output);
    assert_eq!(of("Qwen3ForCausalLM").head_dim, 128);
    let gemma2 = of("Gemma2ForCausalLM");
    assert_eq!(gemma2.windows.unwrap().layers, [true, false, true, false]);
    assert_eq!(gemma2.wiring.attention_soft_cap, Some(50.0));
    assert_eq!(gemma2.wiring.activation, Activation::GeluTanh);
    assert_eq!(gemma2.wiring.norms, NormPlaces::Both);
    assert!(gemma2.tied_embeddings);
    let gemma3 = of("Gemma3ForCausalLM");
    assert_eq!(gemma3.wiring.logits.soft_cap, None);
    let local = gemma3.windows.unwrap().rope.unwrap();
    assert!((local.theta - 1e4).abs() < 1e-9 && (gemma3.rope.theta - 1e6).abs() < 1e-9);
    assert!(of("Phi3ForCausalLM").wiring.fused);
    let olmo2 = of("Olmo2ForCausalLM");
    assert_eq!(
        olmo2.wiring.query_key_norms,
        Some(QueryKeyNorms::Projection)
    );
    assert_eq!(of("GraniteForCausalLM").wiring.attention_scale, Some(1.0));
}

#[test]
fn both_generations_of_gemma_3s_rotation_mean_the_same() {
    let old = json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}});
    let new = json!({"rope_parameters": {
        "full_attention": {"factor": 8.0, "rope_theta": 1e6, "rope_type": "linear"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }});
    let of = |changes: &Value| config(&with(small("Gemma3ForCausalLM"), changes)).unwrap();
    assert_eq!(of(&old), of(&new));
    assert_eq!(of(&old).rope.scaling, Scaling::Linear { factor: 8.0 });
}

#[test]
fn yarn_lengthens_queries_and_keys_as_its_paper_says() {
    let scaling = |extra: &Value| {
        let scaling =
            json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
        let keys = json!({ "rope_scaling": with(scaling, extra) });
        match config(&with(smollm2(), &keys)).unwrap().rope.scaling {
            Scaling::Yarn {
                attention_factor, ..
            } => attention_factor,
            other => panic!("{other:?}"),
        }
    };
    assert!((scaling(&json!({})) - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    assert!((scaling(&json!({"mscale": 1.0, "mscale_all_dim": 1.0})) - 1.0).abs() < 1e-12);
    assert!((scaling(&json!({"attention_factor": 1.5})) - 1.5).abs() < 1e-12);
}

#[rstest]
#[case("architectures", json!(["RetNetForCausalLM"]), "expected a list of one of LlamaForCausalLM, MistralForCausalLM,")]
#[case("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "`rope_scaling.low_freq_factor`: it is absent")]
#[case("rope_scaling", json!({"rope_type": "proportional"}), "expected one of default, linear,")]
#[case("rope_scaling", json!({"factor": 8.0}), "`rope_scaling.factor`: it is 8.0")]
#[case("rope_parameters", json!({"rope_type": "default", "x": 1}), "`rope_parameters.x`: it is 1")]
#[case("hidden_act", json!("gelu"), "it is \"gelu\", which is not supported; expected \"silu\"")]
#[case("partial_rotary_factor", json!(0.5), "expected 1")]
#[case("logit_scale", json!(0.5), "could change the model")]
#[case("hidden_size", json!(-1), "expected a positive integer")]
#[case("hidden_size", Value::Null, "it is absent")]
#[case("num_key_value_heads", json!(2), "cannot share")]
fn what_would_change_the_mathematics_is_refused_by_name(
    #[case] key: &str,
    #[case] value: Value,
    #[case] expected: &str,
) {
    let mut keys = smollm2();
    keys[key] = value;
    let error = config(&keys).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(error.contains(CONFIG), "{error}");
}

#[rstest]
#[case("MistralForCausalLM", "layer_types", json!(["full_attention"]))]
#[case("MistralForCausalLM", "attention_bias", json!(true))]
#[case("Qwen2ForCausalLM", "attention_bias", json!(true))]
#[case("Qwen2ForCausalLM", "layer_types", json!(["chunked_attention"]))]
#[case("Qwen3ForCausalLM", "mlp_bias", json!(true))]
#[case("Qwen3ForCausalLM", "num_experts", json!(8))]
#[case("GemmaForCausalLM", "hidden_act", json!("relu"))]
#[case("GemmaForCausalLM", "sliding_window", json!(4096))]
#[case("Gemma2ForCausalLM", "use_bidirectional_attention", json!(true))]
#[case("Gemma2ForCausalLM", "sliding_window", Value::Null)]
#[case("Gemma3ForCausalLM", "attn_logit_softcapping", json!(50.0))]
#[case("Gemma3ForCausalLM", "rope_parameters", json!({"chunked_attention": {"rope_theta": 1.0}}))]
#[case("Phi3ForCausalLM", "rope_scaling", json!({"type": "longrope", "short_factor": [1.0], "long_factor": ["a"]}))]
#[case("Phi3ForCausalLM", "partial_rotary_factor", json!(0.2))]
#[case("Phi3ForCausalLM", "resid_pdrop", json!(0.1))]
#[case("Olmo2ForCausalLM", "clip_qkv", json!(8.0))]
#[case("GraniteForCausalLM", "residual_multiplier", json!(-1.0))]
#[case("GraniteForCausalLM", "num_local_experts", json!(8))]
fn a_key_that_a_family_does_not_understand_is_refused_by_name(
    #[case] architecture: &str,
    #[case] key: &str,
    #[case] value: Value,
) {
    assert!(config(&small(architecture)).is_ok());
    let mut keys = small(architecture);
    keys[key] = value;
    let error = config(&keys).unwrap_err().to_string();
    assert!(error.contains(key), "{error}");
}

#[rstest]
#[case(json!(-0.1))]
#[case(json!(1.0))]
#[case(json!("0.1"))]
fn a_dropout_that_is_no_probability_is_refused(#[case] dropout: Value) {
    let mut keys = small("GraniteForCausalLM");
    keys["attention_dropout"] = json!(0.1);
    assert!((config(&keys).unwrap().attention_dropout - 0.1).abs() < 1e-12);
    keys["attention_dropout"] = dropout;
    let error = config(&keys).unwrap_err().to_string();
    assert!(error.contains("`attention_dropout`: it is"), "{error}");
}

#[rstest]
#[case("_attn_implementation", json!("flash_attention_2"))]
#[case("_attn_implementation_internal", json!("sdpa"))]
#[case("_commit_hash", json!("0123abcd"))]
#[case("_flash_attn_2_enabled", json!(true))]
#[case("_name_or_path", json!("/models/base"))]
#[case("_a_note_of_another_library", json!({ "version": 2 }))]
#[case("attn_implementation", json!("eager"))]
#[case("dtype", json!("bfloat16"))]
#[case("gradient_checkpointing", json!(true))]
#[case("pretraining_tp", json!(2))]
#[case("transformers_version", json!("5.23.0"))]
#[case("use_cache", json!(true))]
#[case("use_flash_attn", json!(true))]
fn a_key_that_names_only_how_something_is_computed_is_no_reason_to_refuse_a_base(
    #[case] key: &str,
    #[case] value: Value,
    #[values("LlamaForCausalLM", "Qwen2ForCausalLM", "Gemma2ForCausalLM")] architecture: &str,
) {
    let plain = config(&small(architecture)).unwrap();
    let mut keys = small(architecture);
    keys[key] = value;
    assert_eq!(config(&keys).unwrap(), plain);
}

/// As transformers 4.30 saved a Llama with all that it knows of generation, and as Unsloth marks its copies.
#[test]
fn what_older_files_say_of_generation_changes_nothing() {
    let mut keys = smollm2();
    let listed = json!({
        "add_cross_attention": false, "bad_words_ids": null, "diversity_penalty": 0.0, "do_sample": false,
        "early_stopping": false, "encoder_no_repeat_ngram_size": 0, "length_penalty": 1.0, "max_length": 20,
        "max_sequence_length": 2048, "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1,
        "num_return_sequences": 1, "output_scores": false, "pruned_heads": {}, "repetition_penalty": 1.0,
        "temperature": 1.0, "tf_legacy_loss": false, "tie_encoder_decoder": false, "tokenizer_class": "LlamaTokenizer",
        "top_k": 50, "top_p": 1.0, "torchscript": false, "typical_p": 1.0, "unsloth_fixed": true,
    });
    keys = with(keys, &listed);
    assert_eq!(config(&keys).unwrap(), config(&smollm2()).unwrap());
}

#[test]
fn unknown_keys_that_ask_for_nothing_are_passed_over() {
    let mut keys = smollm2();
    keys["sliding_window"] = Value::Null;
    keys["use_sliding_window"] = json!(false);
    assert!(config(&keys).is_ok());
}
