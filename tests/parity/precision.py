"""The reference in double precision, and how far its own fp32 and bf16 are from that: what the trainer's tolerances come from.

What a processor makes of the last bits of a sum is its own affair: it depends on its instructions, on the kernels that a library chose for
them and on the number of threads. So the expected numbers are those of a reference that computes in fp64, which are the same everywhere to
more digits than are kept, and beside them stands how far the same reference is from them in fp32.

transformers asks for fp32 by name whatever the type of the model is: in norms, in the softmax, for rotations, for the loss. Within
`double()` each such request is one for fp64.
"""

import contextlib
import json
import math

import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

# Parts of a name behind which the single tensors of one kind stand: they share one distance, since that of a single one is luck.
KINDS = ("hidden", "grad", "final")


# What takes bytes for numbers: there fp32 is what a file holds.
BYTES = (torch.frombuffer, torch.Tensor.view)


class State:
    """What models are loaded in now."""

    kind = torch.float32
    mode = None


class DoubleForSingle(TorchFunctionMode):
    """Whoever asks for fp32 gets fp64."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if State.kind is not torch.float64 or function in BYTES:
            return function(*arguments, **(keywords or {}))
        if function is torch.Tensor.float:
            return arguments[0].to(torch.float64)
        swapped = lambda value: torch.float64 if value is torch.float32 else value  # noqa: E731
        return function(*map(swapped, arguments), **{key: swapped(value) for key, value in (keywords or {}).items()})


def kind():
    """The type in which models are to be loaded."""
    return State.kind


@contextlib.contextmanager
def of(kind):
    """Models of this type. Adapters are in fp32 at least, as peft has them by default."""
    before, State.kind = State.kind, kind
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if kind is torch.float64 else torch.float32)
    try:
        yield
    finally:
        State.kind = before
        torch.set_default_dtype(default)


@contextlib.contextmanager
def double():
    with of(torch.float64), DoubleForSingle():
        yield


def single():
    """Within `double()`: fp32 is fp32, as for quantisation, which is a function of fp32 numbers."""
    return of(torch.float32)


def group(key):
    """`grad.<name>` to `grad`, `ragged.grad.<name>` to `ragged.grad`; any other name to itself."""
    parts = key.split(".")
    for number, part in enumerate(parts[:-1]):
        if part in KINDS:
            return ".".join(parts[: number + 1])
    return key


def furthest(found, right):
    """By the largest value."""
    size = float(right.abs().max())
    return float((found.double() - right).abs().max()) / size if size else 0.0


def euclidean(found, right):
    size = float(right.norm())
    return float((found.double() - right).norm()) / size if size else 0.0


def compared(right):
    """The names of what has a rounding."""
    return [key for key, value in right.items() if torch.is_floating_point(value) and value.numel()]


def distances(found, right, measure):
    """Group to the largest distance of its tensors."""
    report = {}
    for key in compared(right):
        distance = measure(found[key], right[key].double())
        if not math.isfinite(distance):
            raise SystemExit(f"{key} is not finite")
        report[group(key)] = max(report.get(group(key), 0.0), distance)
    return report


def both(compute, half=False):
    """What `compute` gives in fp64, and the distances from it: {"fp32": {group: distance}}, with `half` also "bf16"."""
    with double():
        right = compute()
    rounding = {"fp32": distances(compute(), right, furthest)}
    if half:
        with of(torch.bfloat16):
            rounding["bf16"] = distances(compute(), right, euclidean)
    for name, values in rounding.items():
        for key, distance in values.items():
            # A reference that is not in double precision throughout would be told by this: it is then as far from itself as fp32 is.
            if distance > {"fp32": 1e-2, "bf16": 1.0}[name]:
                raise SystemExit(f"{key} is {distance:.1e} from double precision in {name}")
    return right, rounding


def save(compute, path, half=False, given=None):
    """Writes the tensors that `compute` gives in double precision, rounded to fp32, `<name>.rounding.json` beside them; and `given`, which
    has no rounding, as it is. Gives what `compute` gave in double precision."""
    right, rounding = both(compute, half)
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = {key: value.detach().float() if value.dtype is torch.float64 else value for key, value in right.items()}
    save_file({key: value.contiguous() for key, value in (rounded | (given or {})).items()}, path)
    write(rounding, path)
    return right


def write(rounding, path):
    """Three digits: more would be those of one machine."""
    short = {name: {key: float(f"{value:.2e}") for key, value in sorted(values.items())} for name, values in rounding.items()}
    path.with_suffix(".rounding.json").write_text(json.dumps(short, indent=2, sort_keys=True) + "\n")


def save_losses(compute, path):
    """The same for a report of nested dictionaries whose leaves `loss` and `losses` are computed: fp64 in the report, distances beside it."""
    with double():
        right = compute()
    pairs = list(leaves(compute(), right))
    rounding = {"fp32": {"loss": max(abs(found / expected - 1) for found, expected in pairs)}}
    path.write_text(json.dumps(right, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    write(rounding, path)
    return right


def leaves(found, right):
    for key, value in right.items():
        if isinstance(value, dict):
            yield from leaves(found[key], value)
        elif key == "loss":
            yield found[key], value
        elif key == "losses":
            yield from zip(found[key], value)
