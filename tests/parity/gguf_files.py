"""GGUF files of tiny-llama-64, laid out as llama.cpp's converter does, and what they must load as."""

import json

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

import lora
import tiny

NAME = "tiny-llama-64"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
KINDS = [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.F16, Kind.BF16, Kind.F32]


def gguf_name(key):
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if key in whole:
        return whole[key]
    _, _, layer, *rest, _ = key.split(".")
    return f"blk.{layer}.{NAMES['.'.join(rest)]}.weight"


def permute(weight, heads):
    """llama.cpp rotates neighbours, transformers rotates halves: its converter reorders the rows of q and k."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def unpermute(weight, heads):
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def heads_of(key, config):
    """How many heads' rows are permuted in this tensor; None for the others."""
    return next((config[field] for part, field in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")) if part in key), None)


def mixed(index, key):
    """Every kind in both layers, over every role."""
    if key == "lm_head.weight":
        return Kind.Q4_0
    if key == "model.embed_tokens.weight":
        return Kind.Q8_0
    return KINDS[index % len(KINDS)]


def as_q4_1(_index, key):
    """What the file of the example's base holds: Q8_0 for the embedding, Q4_1 for the rest."""
    return Kind.Q8_0 if key == "model.embed_tokens.weight" else Kind.Q4_1


# File name: kind of each matrix, and whether the head is left out (tied to the embedding).
FILES = {"mixed": (mixed, False), "q4_1": (as_q4_1, True)}


def write_file(path, tokenizer, weights, kind_of, tied, config=tiny.MODELS[NAME], encode=gguf.quantize):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(tiny.VOCABULARY)
    add_tokenizer(writer, tokenizer)
    matrices = 0
    for key, weight in weights.items():
        if tied and key == "lm_head.weight":
            continue
        heads = heads_of(key, config)
        array = permute(weight.numpy(), heads) if heads else weight.numpy()
        kind = Kind.F32
        if array.ndim == 2:
            kind = kind_of(matrices, key)
            matrices += 1
        writer.add_tensor(gguf_name(key), encode(np.ascontiguousarray(array), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer, tokenizer):
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in tiny.SPECIAL_TOKENS else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(tiny.START_OF_TURN)
    writer.add_eos_token_id(tiny.END_OF_TURN)
    writer.add_unk_token_id(tiny.END_OF_TEXT)
    writer.add_pad_token_id(tiny.END_OF_TURN)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tiny.CHATML)


def read_file(path, keys, config=tiny.MODELS[NAME]):
    """The weights under transformers' names, dequantised by the gguf package, rows of q and k put back. With kinds."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    weights, kinds = {}, {}
    for key in keys:
        tensor = stored.get(gguf_name(key))
        if tensor is None:
            continue
        array = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        heads = heads_of(key, config)
        weights[key] = torch.from_numpy(np.ascontiguousarray(unpermute(array, heads) if heads else array))
        kinds[key] = tensor.tensor_type
    return weights, kinds


def write_gguf(out):
    weights = load_file(out / NAME / "model.safetensors")
    tokenizer = json.loads((out / NAME / "tokenizer.json").read_text())
    (out / "gguf").mkdir()
    tokens, labels = lora.batch(NAME)
    for name, (kind_of, tied) in FILES.items():
        path = out / "gguf" / f"{name}.gguf"
        write_file(path, tokenizer, weights, kind_of, tied)
        ours, kinds = read_file(path, weights)
        model = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").train()
        theirs = model.state_dict()
        for key, value in ours.items():
            if not torch.equal(value, theirs[key]):
                raise SystemExit(f"{name}: the gguf package and transformers read {key} differently")
        if tied != torch.equal(theirs["lm_head.weight"], theirs["model.embed_tokens.weight"]):
            raise SystemExit(f"{name}: transformers ties the head: expected {tied}")
        with torch.no_grad():
            loss, logits, _ = lora.forward(model, tokens, labels)
        exact = {Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}
        # To stay small: F32 tensors are those of model.safetensors; the head shows only in the logits; and half
        # precision is stored as such, which loses nothing.
        kept = [k for k in ours if name == "mixed" and kinds[k] != Kind.F32 and k != "lm_head.weight"]
        dequantised = {f"weight.{k}": ours[k].to(exact.get(kinds[k], torch.float32)) for k in kept}
        lora.save({"tokens": tokens, "labels": labels, "loss": loss.reshape(1), "logits": logits, **dequantised}, out / "expected" / f"gguf-{name}.safetensors")
