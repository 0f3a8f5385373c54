"""Every quantised type of GGUF that the trainer reads: single blocks, and a model file that mixes the types.

The gguf package quantises only some types, so blocks are random bytes under chosen half-precision scales: any bytes are
a valid block. What they stand for is the package's own dequantisation.
"""

import json

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import LlamaForCausalLM

import gguf_files
import lora
import precision
import tiny

# Where a block has its half-precision numbers: scale, and a second scale or least value.
SCALES = {
    Kind.Q4_0: [0],
    Kind.Q4_1: [0, 2],
    Kind.Q5_0: [0],
    Kind.Q5_1: [0, 2],
    Kind.Q8_0: [0],
    Kind.Q2_K: [80, 82],
    Kind.Q3_K: [108],
    Kind.Q4_K: [0, 2],
    Kind.Q5_K: [0, 2],
    Kind.Q6_K: [208],
}
# The least and greatest subnormal and normal numbers of half precision, both zeros, and some in between.
EXTREME = [0.0, -0.0, 2**-24, -(2**-24), 1023 * 2**-24, 2**-14, -0.0123, 0.37, 1.0, -3.3, 65504.0, -65504.0]

NAME = "tiny-llama-256"
# Rows are whole blocks of 256.
CONFIG = tiny.TINY_LLAMA | {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "tie_word_embeddings": False,
}
ROLES = {
    "model.embed_tokens": Kind.Q6_K,
    "lm_head": Kind.Q4_K,
    "self_attn.q_proj": Kind.Q2_K,
    "self_attn.k_proj": Kind.Q3_K,
    "self_attn.v_proj": Kind.Q5_K,
    "self_attn.o_proj": Kind.Q5_1,
    "mlp.gate_proj": Kind.Q5_0,
    "mlp.up_proj": Kind.Q6_K,
    "mlp.down_proj": Kind.Q3_K,
}


def random_blocks(kind, count, scales_of, *name):
    """Blocks (count, bytes): random codes; `scales_of(number)` gives the half-precision numbers of a block."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = tiny.generator("gguf", kind.name, *name).integers(0, 256, (count, size), dtype=np.uint8)
    for number in range(count):
        for place, value in zip(SCALES[kind], scales_of(number)):
            blocks[number, place : place + 2] = np.array([value], dtype=np.float16).view(np.uint8)
    return blocks


def write_types(out):
    """Ten types, each with every extreme scale, and every scale as the second number."""
    tensors = {}
    for kind, places in SCALES.items():
        scales = EXTREME if len(places) == 1 else EXTREME + EXTREME
        pair = lambda number: (scales[number], EXTREME[(5 * number + 3) % len(EXTREME)])  # noqa: E731
        blocks = random_blocks(kind, len(scales), pair)
        values = gguf.dequantize(blocks, kind)
        if not np.isfinite(values).all():
            raise SystemExit(f"{kind.name}: a value is not finite")
        tensors[f"{kind.name}.blocks"] = torch.from_numpy(blocks)
        tensors[f"{kind.name}.values"] = torch.from_numpy(values.copy())
    lora.save(tensors, out / "expected" / "gguf-blocks.safetensors")


def encode(array, kind):
    """What the package can quantise, it does; else random blocks whose values have about the same spread."""
    if kind in (Kind.F32, Kind.Q5_0, Kind.Q5_1):
        return gguf.quantize(array, kind)
    size = gguf.GGML_QUANT_SIZES[kind]
    count = array.size // size[0]
    blocks = random_blocks(kind, count, lambda _: (1.0, 1.0), NAME, str(array.shape), array.tobytes())
    values = gguf.dequantize(blocks, kind).astype(np.float64)
    # Scaled to the spread of the weights that they stand for, each block a little otherwise.
    scale = tiny.WEIGHT_STD / values.std()
    sign = tiny.generator("gguf", kind.name, "signs", array.tobytes()).choice([-1.0, 1.0], count)
    spread = np.linspace(0.7, 1.3, count)
    for number in range(count):
        for place in SCALES[kind]:
            value = np.array([scale * spread[number] * sign[number]], dtype=np.float16)
            blocks[number, place : place + 2] = value.view(np.uint8)
    return blocks.reshape(*array.shape[:-1], -1)


def role(key):
    return next((kind for part, kind in ROLES.items() if part in key), Kind.F32)


def write_model(out):
    """One layer with every K type and both 5-bit types, and the logits that transformers computes from it."""
    tokenizer = json.loads((out / "tiny-llama" / "tokenizer.json").read_text())
    weights = tiny.random_weights(NAME, CONFIG)
    path = out / "gguf" / "types.gguf"
    kind_of = lambda _number, key: role(key)  # noqa: E731
    gguf_files.write_file(path, tokenizer, weights, kind_of, False, config=CONFIG, encode=encode)
    ours, kinds = gguf_files.read_file(path, weights, CONFIG)
    if set(ROLES.values()) - set(kinds.values()):
        raise SystemExit("the file lacks a type")
    model = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").train()
    theirs = model.state_dict()
    for key, value in ours.items():
        if not torch.equal(value, theirs[key]):
            raise SystemExit(f"the gguf package and transformers read {key} differently")
    tokens, labels = lora.batch(NAME)
    with torch.no_grad():
        logits = lora.forward(model, tokens, labels)[1]
        # A reader that took one type for zeros must be told from a right one.
        for key, value in theirs.items():
            if "norm" in key:
                continue
            kept = value.clone()
            value.zero_()
            wrong = lora.forward(model, tokens, labels)[1]
            value.copy_(kept)
            if not float((wrong - logits).abs().max() / logits.abs().max()) > 1e-2:
                raise SystemExit(f"{key} does not show in the logits")
    precision.save(lambda: gguf_files.numbers(path, tokens, labels), out / "expected" / "gguf-types.safetensors")
