"""Compares two folders of fixtures. Whole numbers and bytes must be equal; floats may differ by rounding,

because a matrix product depends on the instruction set of the machine.
"""

import json
import math

from pyarrow import parquet
from safetensors import safe_open

RELATIVE = 1e-5
# AdamW divides a gradient by its own size, so that rounding in a tiny gradient grows to a whole step.
RELATIVE_TRAINED = 1e-4
# How far the reference's bf16 is from its fp32: between kinds of CPU these distances differ by 6 in a hundred and less.
RELATIVE_DISTANCE = 0.25


def compare(made, committed):
    """Every difference as one line; empty when the folders agree."""
    files = [{path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (made, committed)]
    files[1] = {path for path in files[1] if len(path.parts) > 1}
    faults = [f"{path}: is not committed" for path in sorted(files[0] - files[1])]
    faults += [f"{path}: is committed, but the script does not make it" for path in sorted(files[1] - files[0])]
    for path in sorted(files[0] & files[1]):
        kind = {".safetensors": safetensors, ".json": json_files, ".parquet": columns}.get(path.suffix, same_bytes)
        faults += [f"{path}: {fault}" for fault in kind(made / path, committed / path)]
    return faults


def same_bytes(made, committed):
    return [] if made.read_bytes() == committed.read_bytes() else ["differs"]


def safetensors(made, committed):
    with safe_open(made, "pt") as left, safe_open(committed, "pt") as right:
        if set(left.keys()) != set(right.keys()):
            yield f"has other tensors: {sorted(set(left.keys()) ^ set(right.keys()))}"
            return
        for key in left.keys():
            a, b = left.get_tensor(key), right.get_tensor(key)
            if a.shape != b.shape or a.dtype != b.dtype:
                yield f"{key} is {a.dtype} {tuple(a.shape)}, committed {b.dtype} {tuple(b.shape)}"
            elif not a.is_floating_point():
                if not a.equal(b):
                    yield f"{key} differs"
            elif a.numel():
                distance, size = float((a.double() - b.double()).abs().max()), float(b.double().abs().max())
                if not distance <= (RELATIVE_TRAINED if "final." in key else RELATIVE) * size:
                    yield f"{key} differs by {distance:.1e}, largest value {size:.1e}"


def columns(made, committed):
    """Compression may find other bytes on another machine."""
    left, right = parquet.ParquetFile(made), parquet.ParquetFile(committed)
    if not left.read().equals(right.read()) or not left.schema.equals(right.schema):
        return ["differs"]
    return []


def json_files(made, committed):
    relative = RELATIVE_DISTANCE if made.name == "bf16.json" else RELATIVE
    return list(values(json.loads(made.read_text()), json.loads(committed.read_text()), "", relative))


def values(a, b, where, relative):
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from values(a[key], b[key], f"{where}.{key}", relative)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (left, right) in enumerate(zip(a, b)):
            yield from values(left, right, f"{where}[{index}]", relative)
    elif isinstance(a, float) and isinstance(b, float):
        # A difference of two close numbers carries the rounding of both.
        tolerance = 1e-2 if where.endswith("relative") else relative
        if not math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-12):
            yield f"{where} is {a}, committed {b}"
    elif a != b:
        yield f"{where} differs"
