"""Every family with its linear layers in NF4, in the format of a file that transformers + bitsandbytes save.

bitsandbytes' code for CPUs begins a new block with each row, its code for GPUs and its format do not: the matrices are quantised here in
rows of one block, and laid down by bitsandbytes' own `QuantState` under their real shape.
"""

import json

import torch
from bitsandbytes import functional
from safetensors.torch import load_file, save_file

import families
import four_bit
import tiny

QUANTIZATION = {
    "_load_in_4bit": True,
    "_load_in_8bit": False,
    "bnb_4bit_compute_dtype": "float32",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": False,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": ["lm_head"],
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "load_in_8bit": False,
    "quant_method": "bitsandbytes",
}


def saved(key, weight):
    """The tensors that bitsandbytes saves for a matrix."""
    blocks = weight.float().reshape(-1, four_bit.BLOCK)
    codes, state = functional.quantize_4bit(blocks, blocksize=four_bit.BLOCK, quant_type="nf4", compress_statistics=False)
    state.shape, state.dtype = weight.shape, torch.bfloat16
    return {key: codes.reshape(-1, 1)} | {f"{key}.{part}": value for part, value in state.as_dict(packed=True).items()}


def write_saved(out):
    for name in families.FAMILIES:
        folder = out / "families" / name
        tensors = {}
        for key, weight in load_file(folder / "model.safetensors").items():
            quantised = ".layers." in key and key.endswith("_proj.weight") and "vision" not in key
            tensors |= saved(key, weight) if quantised else {key: weight}
        (folder / "nf4").mkdir()
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "nf4" / "model.safetensors", metadata={"format": "pt"})
        families.write_tokenizer(folder / "nf4")
        keys = json.loads((folder / "config.json").read_text())
        tiny.write_json(folder / "nf4" / "config.json", keys | {"quantization_config": QUANTIZATION})
