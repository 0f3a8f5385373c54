"""GGUF files of tiny-llama-64, laid out as llama.cpp's converter does, and what they must load as; and SentencePiece tokenizers in such
files."""

import json

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from sentencepiece import sentencepiece_model_pb2
from transformers import LlamaConfig, LlamaForCausalLM

import lora
import precision
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


def write_file(path, tokenizer, weights, kind_of, tied, config=tiny.MODELS[NAME], encode=gguf.quantize, rope_factors=None):
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
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors)
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
        exact = {Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}
        # To stay small: F32 tensors are those of model.safetensors; the head shows only in the logits; and half
        # precision is stored as such, which loses nothing.
        kept = [k for k in ours if name == "mixed" and kinds[k] != Kind.F32 and k != "lm_head.weight"]
        dequantised = {f"weight.{k}": ours[k].to(exact.get(kinds[k], torch.float32)) for k in kept}
        precision.save(lambda: numbers(path, tokens, labels), out / "expected" / f"gguf-{name}.safetensors", given=dequantised)


def numbers(path, tokens, labels):
    """What transformers computes from a file."""
    model = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=precision.kind(), attn_implementation="eager").train()
    with torch.no_grad():
        loss, logits, _ = lora.forward(model, tokens, labels)
    return {"tokens": tokens, "labels": labels, "loss": loss.reshape(1), "logits": logits}


def write_llama3(out):
    """Llama 3.1's rotation, which llama.cpp's converter writes as one divisor a frequency, on rows long enough to show it."""
    weights = load_file(out / NAME / "model.safetensors")
    tokenizer = json.loads((out / NAME / "tokenizer.json").read_text())
    config = tiny.MODELS[NAME] | {"rope_theta": 500000.0, "max_position_embeddings": 131072}
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    path = out / "gguf" / "llama3.gguf"
    write_file(path, tokenizer, weights, as_q4_1, True, config=config, rope_factors=rope_factors(config, scaling))
    ours, _ = read_file(path, weights)

    def logits(rope_scaling):
        settings = {k: v for k, v in config.items() if k not in ("architectures", "rope_scaling", "rope_theta", "torch_dtype", "tie_word_embeddings")}
        parameters = (rope_scaling or {"rope_type": "default"}) | {"rope_theta": config["rope_theta"]}
        model = LlamaForCausalLM(LlamaConfig(**settings, tie_word_embeddings=True, rope_parameters=parameters, attn_implementation="eager"))
        model.load_state_dict(ours | {"lm_head.weight": ours["model.embed_tokens.weight"]})
        with torch.no_grad():
            return model.train()(input_ids=tokens, use_cache=False).logits[:, -1]

    tokens, _ = lora.batch("llama3", rows=1, length=1500)
    right = logits(scaling)
    moved = float((logits(None) - right).abs().max() / right.abs().max())
    if moved <= 1e-2:
        raise SystemExit(f"llama3: no scaling moves the logits by {moved:.1e} only, expected more than 1e-2")
    precision.save(lambda: {"tokens": tokens, "logits": logits(scaling)}, out / "expected" / "gguf-llama3.safetensors")


def rope_factors(config, scaling):
    """(head size / 2,), as `convert_hf_to_gguf.py` computes them."""
    size = config["hidden_size"] // config["num_attention_heads"]
    factors = []
    for frequency in 1.0 / config["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float32) / size):
        wavelength = 2 * np.pi / frequency
        turns = scaling["original_max_position_embeddings"] / wavelength
        smooth = (turns - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
        smooth = min(max(smooth, 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


# Models of `sentence_piece.py` that a GGUF file can hold, since it keeps no map of characters. `llama` has two spaces as a piece of the
# user's, which SentencePiece never finds and llama.cpp merges: its ids are not compared.
SENTENCE_PIECE = ["llama", "llama-legacy", "gemma", "bpe-unknown"]


def write_tokenizers(out):
    """SentencePiece models as llama.cpp's converter lays them out, without weights. Their ids are those of `expected/sentencepiece.json`
    that SentencePiece itself gives, by whose rules llama.cpp goes too; transformers' reader of such files knows neither unknown characters nor a model without
    the space before a text."""
    for name in SENTENCE_PIECE:
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString((out / "sentencepiece" / name / "tokenizer.model").read_bytes())
        writer = gguf.GGUFWriter(out / "gguf" / f"tokenizer-{name}.gguf", "llama")
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([piece.piece for piece in model.pieces])
        writer.add_token_scores([piece.score for piece in model.pieces])
        writer.add_token_types([piece.type for piece in model.pieces])
        writer.add_bos_token_id(model.trainer_spec.bos_id)
        writer.add_eos_token_id(model.trainer_spec.eos_id)
        writer.add_unk_token_id(model.trainer_spec.unk_id)
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(model.normalizer_spec.add_dummy_prefix)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
