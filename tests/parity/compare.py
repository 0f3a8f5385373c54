"""Compares two folders of fixtures. Whole numbers and bytes must be equal; floats, which are computed in double precision or by single
operations, may differ in their last digits. How far the reference's fp32 and bf16 are from that depends on the machine, and must be within
what the trainer's tests allow.
"""

import json
import math

from pyarrow import parquet
from safetensors import safe_open

RELATIVE = 1e-6
# What the trainer's tests allow: so many times the recorded distance, and some units of rounding. As in `trainer/tests/tolerance/mod.rs`.
FACTORS, UNITS = {"fp32": 4, "bf16": 2}, {"fp32": 16 * 2**-24, "bf16": 2**-8}
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
                if not float((a != b).double().mean() if a.numel() else 0) <= allowed(committed, f"{key}.differing", 0.0):
                    yield f"{key} differs"
            elif a.numel():
                distance, size = float((a.double() - b.double()).abs().max()), float(b.double().abs().max())
                if key.startswith("moved."):
                    distance, size = float((a.double() - b.double()).norm()), float(b.double().norm())
                if not distance <= allowed(committed, key, RELATIVE) * size:
                    yield f"{key} differs by {distance:.1e}, of {size:.1e}"


def allowed(committed, key, otherwise):
    """bitsandbytes' optimiser takes fp32 and codes are steps, so that its results are those of one kind of processor."""
    if committed.stem != "adamw-8bit":
        return otherwise
    distances = json.loads(committed.with_suffix(".rounding.json").read_text())["fp32"]
    return FACTORS["fp32"] * distances[key] + UNITS["fp32"] if key in distances else otherwise


def columns(made, committed):
    """Compression may find other bytes on another machine."""
    left, right = parquet.ParquetFile(made), parquet.ParquetFile(committed)
    if not left.read().equals(right.read()) or not left.schema.equals(right.schema):
        return ["differs"]
    return []


def json_files(made, committed):
    if made.name.endswith(".rounding.json"):
        return list(roundings(json.loads(made.read_text()), json.loads(committed.read_text())))
    relative = RELATIVE_DISTANCE if made.name == "bf16.json" else RELATIVE
    return list(values(json.loads(made.read_text()), json.loads(committed.read_text()), "", relative))


def roundings(made, committed):
    if {key: made[key].keys() for key in made} != {key: committed[key].keys() for key in committed}:
        yield "has other names"
        return
    for precision, distances in made.items():
        for key, found in distances.items():
            allowed = FACTORS[precision] * committed[precision][key] + UNITS[precision]
            if found > allowed:
                yield f"{precision} {key}: the reference is {found:.1e} from double precision, the tests allow {allowed:.1e}"


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
