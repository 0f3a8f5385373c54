"""Bases that transformers + bitsandbytes saved in 4 bits, and what the model computes from them.

The expected numbers come from an fp32 model with the weights that bitsandbytes dequantises out of the saved file, because
its Linear4bit may round activations. That the two agree in training is checked here.
"""

import copy
import shutil

import bitsandbytes
import torch
from bitsandbytes import functional
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import lora
import precision
import tiny

BASE = "tiny-llama-64"
# Folder: code, whether the scales are quantised too, the type that the weights had.
FILES = {
    "tiny-llama-64-nf4": ("nf4", True, torch.bfloat16),
    "tiny-llama-64-fp4": ("fp4", False, torch.float32),
}


def save(out, name):
    code, double, dtype = FILES[name]
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=code,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        out / BASE, quantization_config=config, dtype=dtype, device_map="cpu", attn_implementation="eager"
    )
    folder = out / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(out / BASE / file, folder / file)
    return folder


def dequantised(folder):
    """The values of the saved model in fp32, and the model as transformers loads it."""
    stored = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", attn_implementation="eager").train()
    values = {key: value for key, value in stored.state_dict().items() if "proj" not in key}
    for key, module in stored.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = module.weight
            # In training bitsandbytes dequantises to the type of the activations, whatever the weights once were.
            state = copy.copy(weight.quant_state)
            state.dtype = torch.float32
            values[f"{key}.weight"] = functional.dequantize_4bit(weight.data, state)
    return {key: value.float() for key, value in values.items()}, stored


def load(out, values):
    """The dense model with these values."""
    dense = tiny.load(out, BASE)
    with torch.no_grad():
        taken = [parameter.copy_(values[key]) for key, parameter in dense.named_parameters()]
    if len(taken) != len(values):
        raise SystemExit(f"{len(taken)} of {len(values)} values were taken")
    return dense


def write_bnb(out):
    tokens, labels = lora.batch(BASE)
    for name in FILES:
        values, stored = dequantised(save(out, name))
        with torch.no_grad():
            loss = lora.forward(load(out, values), tokens, labels)[0]
            other = lora.forward(tiny.load(out, BASE), tokens, labels)[0]
        # As in training; else bitsandbytes on a CPU takes another way and rounds to bf16.
        stored.train().enable_input_require_grads()
        for parameter in stored.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.float()
        own = stored(input_ids=tokens, labels=labels).loss.detach()
        if not abs(float(own / loss) - 1) < 1e-6 or not abs(float(other / loss) - 1) > 1e-3:
            raise SystemExit(f"{name}: loss {float(loss)}, transformers' own {float(own)}, without 4 bits {float(other)}")
        precision.save(lambda: numbers(out, values, tokens, labels), out / "expected" / f"bnb-{name}.safetensors")


def numbers(out, values, tokens, labels):
    dense = load(out, values)
    with torch.no_grad():
        loss, logits, _ = lora.forward(dense, tokens, labels)
    model = PeftModel.from_pretrained(dense, out / "adapters" / BASE, is_trainable=True).train()
    adapted = lora.expected(model, lora.adapter_parameters(model), tokens, labels)
    tensors = {"tokens": tokens, "labels": labels, "loss": loss.reshape(1), "logits": logits}
    return tensors | {f"adapter.{key}": value for key, value in adapted.items() if key == "loss" or key.startswith("grad.")}
