"""How far the reference's own bf16 is from its fp32, per family: what ours has to be closer than.

The base is loaded in bfloat16, the adapter as peft puts it there by default (in fp32), attention eager, in training mode. Only
distances are kept, because bf16 results are those of one kind of CPU. A distance is the Euclidean norm of the difference by
that of the fp32 tensor, of a loss the difference by its size; what is written is the root mean square over all rows, since a
single one is luck.
"""

import torch

import families
import lora
import precision
import tiny

BATCHES = 16


def load(folder, name):
    with precision.of(torch.bfloat16):
        return families.load_adapter(folder, name)


def batches():
    """The rows, the same for every family."""
    return [families.batch(f"bf16 {number}") for number in range(BATCHES)]


def distance(found, right):
    found, right = found.double(), right.double()
    return float((found - right).norm() / right.norm())


def root_mean_square(values):
    values = list(values)
    return (sum(value**2 for value in values) / len(values)) ** 0.5


def distances(folder, name):
    single, half = families.load_adapter(folder, name), load(folder, name)
    far = []
    for batch in batches():
        right, found = (families.expected(model, *batch) for model in (single, half))
        far.append({key: distance(found[key], value) for key, value in right.items()})
    over_batches = lambda key: root_mean_square(each[key] for each in far)  # noqa: E731
    starts = range(0, BATCHES, families.STEPS)
    losses = [
        families.trajectory(model(folder, name), batches()[start : start + families.STEPS])
        for start in starts
        for model in (families.load_adapter, load)
    ]
    return {
        "hidden": {key.removeprefix("hidden."): over_batches(key) for key in far[0] if key.startswith("hidden.")},
        "logits": over_batches("logits"),
        "gradients": root_mean_square(over_batches(key) for key in far[0] if key.startswith("grad.")),
        "losses": over_batches("loss"),
        "steps": root_mean_square(
            distance(found, right) for rights, founds in zip(losses[::2], losses[1::2]) for right, found in zip(rights, founds)
        ),
    }


def write_distances(out):
    folder = out / "families"
    tiny.write_json(folder / "bf16.json", {name: distances(folder / name, name) for name in families.FAMILIES})
    tokens, labels = (torch.stack(part) for part in zip(*batches()))
    lora.save({"tokens": tokens, "labels": labels}, folder / "bf16.safetensors")
