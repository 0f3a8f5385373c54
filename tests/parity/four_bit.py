"""NF4 and FP4 as bitsandbytes computes them on a CPU: single matrices, and a whole model on a base of 4 bits.

The base of the model is dequantised to fp32 by bitsandbytes' own functions and put into the fp32 model: its Linear4bit
would round activations to bf16.
"""

import numpy as np
import torch
from bitsandbytes import functional
from bitsandbytes.backends.default.ops import _get_4bit_quantize_bounds

import lora
import precision
import tiny

BLOCK = 64
CODES = ("nf4", "fp4")


def cases(code):
    """Name to matrix (out, in)."""
    normal = lambda name, *shape: tiny.normal(shape, 0.3, "nf4", name)  # noqa: E731
    return {
        "fp32": normal("fp32", 24, 128),
        "bf16": normal("bf16", 24, 128).bfloat16(),
        # 288 blocks: the second block of 256 scales is a partial one.
        "layer_bf16": (normal("layer", 72, 256) * (1 + normal("row scale", 72, 1).abs())).bfloat16(),
        "edges": edges(code),
        # 150 values: the last block is a partial one.
        "partial": normal("partial", 3, 50),
    }


def edges(name):
    """One block per row: zeros, ties, code values, extreme scales."""
    bounds, _, code = bounds_and_code(name)
    block = lambda *values: torch.cat([torch.as_tensor(v, dtype=torch.float32).reshape(-1) for v in values] + [torch.zeros(BLOCK)])[:BLOCK]  # noqa: E731
    below = torch.from_numpy(np.nextafter(bounds.numpy(), np.float32(-2)))
    above = torch.from_numpy(np.nextafter(bounds.numpy(), np.float32(2)))
    random = tiny.normal((BLOCK,), 1.0, "nf4", "edges")
    outlier = random.clone() * 1e-3
    outlier[17] = 100.0
    return torch.stack([
        torch.zeros(BLOCK),
        -torch.zeros(BLOCK),
        block([1.0], bounds, below, above),
        block([-1.0], bounds, -bounds),
        block([0.25], bounds / 4, below / 4, above / 4),
        block([3.0], bounds * 3, code * 3),
        block(code, -code),
        random * 1e-30,
        random * 1e30,
        outlier,
        torch.full((BLOCK,), -0.7),
        block([1e-6]),
        block([1e-39], [-2e-40]),
    ])


def bounds_and_code(name):
    """The midpoints between neighbouring values, the codes in the order of their values, the value of each code."""
    bounds, order = _get_4bit_quantize_bounds(name, torch.device("cpu"))
    return bounds, order, functional.get_4bit_type(name, device="cpu")


def quantise(matrix, code="nf4"):
    """Codes, scales and values of a matrix, plain and with double quantisation: in fp32 whatever the precision of now is."""
    with precision.single():
        return parts(matrix.float() if matrix.dtype is torch.float64 else matrix, code)


def parts(matrix, code):
    codes, state = functional.quantize_4bit(matrix, blocksize=BLOCK, quant_type=code, compress_statistics=False)
    same, double = functional.quantize_4bit(matrix, blocksize=BLOCK, quant_type=code, compress_statistics=True)
    if not codes.equal(same):
        raise SystemExit("double quantisation changed the codes")
    scales = functional.dequantize_blockwise(double.absmax, double.state2) + double.offset
    return {
        "codes": codes.reshape(-1),
        "absmax": state.absmax,
        "dequantised": functional.dequantize_4bit(codes, state),
        "double.absmax_codes": double.absmax,
        "double.nested_absmax": double.state2.absmax,
        "double.offset": double.offset.reshape(1),
        "double.absmax": scales,
        "double.dequantised": functional.dequantize_4bit(codes, double),
    }


def write_matrices(out):
    for name in CODES:
        bounds, order, code = bounds_and_code(name)
        tensors = {"code": code, "order": order, "bounds": bounds}
        if name == "nf4":
            tensors["dynamic_map"] = functional.create_dynamic_map(signed=True)
        for case, matrix in cases(name).items():
            parts = quantise(matrix, name)
            if name != "nf4":
                # Scales are quantised as under NF4; nor does FP4 treat a large matrix in another way.
                if case == "layer_bf16":
                    continue
                parts = {key: value for key, value in parts.items() if not key.startswith("double.")}
            tensors[f"{case}.input"] = matrix
            tensors |= {f"{case}.{key}": value.clone() for key, value in parts.items()}
        lora.save(tensors, out / "expected" / f"{name}.safetensors")


def write_models(out):
    """tiny-llama-64 with every linear but the head in 4 bits, plus its adapter: loss and gradients."""
    write_model(out, "nf4", (("plain", "dequantised"), ("double", "double.dequantised")))
    write_model(out, "fp4", (("plain", "dequantised"),))


def write_model(out, code, kinds):
    name = "tiny-llama-64"
    quantised = {
        key: quantise(weight.detach(), code) for key, weight in tiny.load(out, name).named_parameters() if key.endswith("_proj.weight")
    }
    stored = {}
    if "double" in dict(kinds):
        kept = ("codes", "absmax", "double.absmax_codes", "double.nested_absmax", "double.offset")
        stored = {f"{part}.{key}": parts[part].clone() for key, parts in quantised.items() for part in kept}
    path = out / "expected" / f"{code}-lora-{name}.safetensors"
    precision.save(lambda: on_values(out, name, quantised, kinds), path, given=stored)


def on_values(out, name, quantised, kinds):
    tokens, labels = lora.batch(name)
    tensors = {"tokens": tokens, "labels": labels}
    for kind, values in kinds:
        model = lora.load_adapter(out, name)
        weights = {k.replace("base_model.model.", "").replace(".base_layer", ""): v for k, v in model.named_parameters()}
        for key, parts in quantised.items():
            weights[key].data = parts[values].to(weights[key].dtype)
        result = lora.expected(model, lora.adapter_parameters(model), tokens, labels)
        tensors |= {f"{kind}.{key}": value for key, value in result.items() if key == "loss" or key.startswith("grad.")}
        if kind == "plain":
            tensors |= {f"plain.{key}": value for key, value in result.items() if key in ("logits", "hidden.1", "hidden.2")}
    return tensors
