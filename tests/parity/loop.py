"""The training loop's fixtures: AdamW with 8-bit state as bitsandbytes computes it, and its maps of codes.

Full fine-tuning of tiny-llama-64, because an adapter's tensors are too small for 8 bits there. Weight decay on matrices only.

bitsandbytes' kernel for CPUs looks a code up by 16 bits of the number, which is coarse near 0; its kernels for GPUs and its own
fallback take the nearest. Both are here: the first as it is, the second ("nearest.") by putting the fallback in its place.

The optimiser takes fp32 and its codes are steps, so that here double precision ends with the gradient: it is computed and clipped in
fp64, from the parameters as they are, and rounded.
"""

from unittest import mock

import bitsandbytes
import torch
from bitsandbytes.backends.cpu import ops as cpu_kernels
from bitsandbytes.functional import create_dynamic_map

import lora
import precision
import tiny

MODEL = "tiny-llama-64"
STEPS, LEARNING_RATE, CLIP = 6, 1e-2, 1.0
# The tensor whose state is kept: 32 blocks, half of a layer's feed-forward part.
KEPT = "model.layers.0.mlp.down_proj.weight"
# One that is too small for codes.
SMALL = "model.norm.weight"
TOLERANCE = 1e-3


def batches():
    return [lora.batch(f"{MODEL} eight bits {step}") for step in range(STEPS)]


def groups(model, weight_decay):
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]


def eight_bits(least_elements=4096):
    """As the transformers Trainer sets it up: embeddings keep 32 bits, because rows without a gradient would else explode."""

    def make(model, groups):
        manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
        manager.register_module_override(model.model.embed_tokens, "weight", {"optim_bits": 32})
        return bitsandbytes.optim.AdamW8bit(groups, lr=LEARNING_RATE, min_8bit_size=least_elements)

    return make


def nearest(numbers, code, absmax_out, codes_out, blocksize):
    """What bitsandbytes' fallback for every device does, in the form of the CPU's kernel."""
    blocks = numbers.reshape(-1, min(blocksize, numbers.numel()))
    absmax = blocks.abs().amax(1)
    scaled = (blocks * (1.0 / absmax.clamp(min=1e-38)).view(-1, 1)).clamp(-1, 1)
    codes_out.copy_(torch.bucketize(scaled, (code[:-1] + code[1:]) / 2).to(torch.uint8).view(codes_out.shape))
    absmax_out.copy_(absmax)


def run(out, make_optimizer, weight_decay=0.0):
    """Losses before each step, and the optimiser and model after the last."""
    computing = tiny.load(out, MODEL)
    with precision.single():
        model = tiny.load(out, MODEL)
        optimizer = make_optimizer(model, groups(model, weight_decay))
    losses = []
    for tokens, labels in batches():
        with torch.no_grad():
            pairs = list(zip(model.parameters(), computing.parameters(), strict=True))
            for parameter, copy in pairs:
                copy.copy_(parameter)
        computing.zero_grad()
        loss, _, _ = lora.forward(computing, tokens, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(computing.parameters(), CLIP)
        with precision.single():
            for parameter, copy in pairs:
                parameter.grad = copy.grad.to(torch.float32)
            optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), optimizer, model


def moved(out, model, name):
    """How far a tensor has come."""
    with precision.single():
        before, after = (dict(each.named_parameters())[name].detach() for each in (tiny.load(out, MODEL), model))
        return after - before


def write_adamw_8bit(out):
    maps = {"signed_map": create_dynamic_map(signed=True), "unsigned_map": create_dynamic_map(signed=False)}
    with precision.double():
        right = numbers(out)
    found = numbers(out)
    rounding = {"fp32": precision.distances(found, right, precision.furthest)}
    for name in (KEPT, SMALL):
        # A code that flips moves one number far, and on another machine another one.
        rounding["fp32"][f"moved.{name}"] = precision.euclidean(found[f"moved.{name}"], right[f"moved.{name}"].double())
    for state, values in (("state1", maps["signed_map"]), ("state2", maps["unsigned_map"])):
        codes, others = (each[f"kept.{state}"] for each in (right, found))
        # By value: near 0 a hundred codes lie within a thousandth of the scale.
        rounding["fp32"][f"kept.{state}"] = float((values[codes.long()] - values[others.long()]).abs().max())
        rounding["fp32"][f"kept.{state}.differing"] = float((codes != others).double().mean())
    prove(out, right)
    path = out / "expected" / "adamw-8bit.safetensors"
    lora.save({key: value.float() if value.is_floating_point() else value for key, value in (right | maps).items()}, path)
    precision.write(rounding, path)


def numbers(out):
    tensors = {"tokens": torch.stack([tokens for tokens, _ in batches()]), "labels": torch.stack([labels for _, labels in batches()])}
    tensors["losses"], _, _ = run(out, eight_bits())
    with mock.patch.object(cpu_kernels, "_quant_blockwise_fp32_direct", nearest):
        tensors["nearest.losses"], optimizer, model = run(out, eight_bits())
        tensors["nearest.decay.losses"], _, _ = run(out, eight_bits(), weight_decay=0.1)
    tensors |= {f"moved.{name}": moved(out, model, name) for name in (KEPT, SMALL)}
    state = optimizer.state[dict(model.named_parameters())[KEPT]]
    return tensors | {f"kept.{name}": state[name].flatten() for name in ("state1", "state2", "absmax1", "absmax2")}


def prove(out, right):
    """The numbers must tell 8-bit state from 32-bit state, decay from none, and codes in small tensors from fp32 there."""
    _, _, fp32 = run(out, lambda _, groups: torch.optim.AdamW(groups, lr=LEARNING_RATE))
    with mock.patch.object(cpu_kernels, "_quant_blockwise_fp32_direct", nearest):
        _, _, coded = run(out, eight_bits(least_elements=1))
    wrong = {
        "fp32 state": (moved(out, fp32, KEPT), right[f"moved.{KEPT}"]),
        "decay": (right["nearest.decay.losses"], right["nearest.losses"]),
        "codes in small tensors": (moved(out, coded, SMALL), right[f"moved.{SMALL}"]),
    }
    for name, (found, expected) in wrong.items():
        distance = float((found - expected).abs().max() / expected.abs().max())
        if distance <= 2 * TOLERANCE:
            raise SystemExit(f"{name}: the numbers differ by {distance:.1e} only, expected more than {2 * TOLERANCE:.0e}")
