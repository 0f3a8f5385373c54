"""The tiny random Llama models and the tiny tokenizer that every other fixture rests on.

Weights have standard deviation 0.25 and random norm weights: with the usual 0.02 a model without RoPE would pass.
Random numbers come from numpy by tensor name, so that no tensor depends on the order in which others are drawn.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import precision

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT, START_OF_TURN, END_OF_TURN = 0, 1, 2
VOCABULARY = 320  # 3 specials, 256 bytes, 61 merges
WEIGHT_STD = 0.25

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a tiny assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "What is the warranty of the lamp? The warranty of the lamp is five years.",
    "You are a helpful assistant. How are you today? I am well, thank you.",
    "The store in the old town opens at nine and closes at seventeen thirty.",
    "user asks the assistant, and the assistant answers the user in the system.",
    "Returns are free within thirty days; the shipping is four euros and ninety cents.",
]

# In the keys of checkpoints older than transformers 5, as most published models have them.
TINY_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": START_OF_TURN,
    "eos_token_id": END_OF_TURN,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "pad_token_id": END_OF_TURN,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
# In the keys of transformers 5, with an explicit head size that is not hidden / heads.
TINY_LLAMA_BIAS = {k: v for k, v in TINY_LLAMA.items() if k not in ("rope_scaling", "rope_theta", "torch_dtype")} | {
    "attention_bias": True,
    "dtype": "float32",
    "head_dim": 16,
    "num_hidden_layers": 2,
    "mlp_bias": True,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
    "tie_word_embeddings": False,
}
# Rows are whole blocks of 64, so that NF4 and the GGUF formats apply.
TINY_LLAMA_64 = TINY_LLAMA | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
}
MODELS = {"tiny-llama": TINY_LLAMA, "tiny-llama-bias": TINY_LLAMA_BIAS, "tiny-llama-64": TINY_LLAMA_64}


def generator(*name):
    """A random generator that depends on the name alone."""
    return np.random.Generator(np.random.PCG64([zlib.crc32(str(part).encode()) for part in name]))


def normal(shape, std, *name, mean=0.0):
    return torch.from_numpy((mean + std * generator(*name).standard_normal(shape)).astype(np.float32))


def random_weights(name, config=None):
    """Every stored tensor of a model. The tied head is left out, as checkpoints leave it out."""
    config = LlamaConfig(**(config or MODELS[name]))
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight")
    return {
        key: normal(shape, WEIGHT_STD, name, key, mean=1.0 if "norm" in key else 0.0)
        for key, shape in sorted(shapes.items())
    }


def write_models(out):
    tokenizer = train_tokenizer()
    for name, config in MODELS.items():
        folder = out / name
        folder.mkdir(parents=True)
        write_json(folder / "config.json", config)
        save_file(random_weights(name), folder / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", tokenizer_config(inline_template=name != "tiny-llama-bias"))
        if name == "tiny-llama-bias":
            (folder / "chat_template.jinja").write_text(CHATML)
    write_sharded(out / "tiny-llama-sharded")


def write_sharded(folder):
    """The weights of tiny-llama over two files, split in the middle of a layer."""
    folder.mkdir()
    weights = random_weights("tiny-llama")
    keys = list(weights)
    shards = {"model-00001-of-00002.safetensors": keys[:17], "model-00002-of-00002.safetensors": keys[17:]}
    for file, members in shards.items():
        save_file({key: weights[key] for key in members}, folder / file, metadata={"format": "pt"})
    size = sum(value.numel() * 4 for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": {k: f for f, members in shards.items() for k in members}}
    write_json(folder / "model.safetensors.index.json", index)
    write_json(folder / "config.json", TINY_LLAMA)


def train_tokenizer():
    """Byte-level BPE with every byte in it; digits stand alone, as in SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, expected {VOCABULARY}")
    return tokenizer


def tokenizer_config(inline_template):
    config = {
        "add_prefix_space": False,
        "additional_special_tokens": SPECIAL_TOKENS[1:],
        "bos_token": "<|im_start|>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 128,
        "pad_token": "<|im_end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<|endoftext|>",
    }
    return config | ({"chat_template": CHATML} if inline_template else {})


def load(out, name):
    """The model as the reference computes it: in the precision of now (fp32 unless one is asked for), eager attention."""
    return LlamaForCausalLM.from_pretrained(Path(out) / name, dtype=precision.kind(), attn_implementation="eager").train()


def write_json(path, value):
    Path(path).write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
