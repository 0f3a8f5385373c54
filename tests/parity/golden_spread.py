"""How far log-probabilities of one model lie apart between ways to compute them: what the tolerance of `golden.json` has to let pass.

    python tests/parity/golden_spread.py

Per model and way the mean absolute difference in nats from fp32 with eager attention, which is what an engine is judged by. The
models are SmolLM2-135M-Instruct out of FINETUNE_SMOLLM2_GGUF and, on random tokens and with their adapters, the families of the fixtures.
`nf4` is not a way to compute the same model but another base: what the tolerance must tell apart.
"""

import os
import sys
import warnings
from pathlib import Path

# peft keeps module names in sets, whose order depends on this seed.
if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"})

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import bf16
import families
import four_bit

FIXTURES = Path(__file__).resolve().parents[2] / "trainer/tests/fixtures"
MOST_TOKENS = 96
TEXTS = [
    "What is the warranty of the lamp? The warranty of the lamp is five years, and it covers the battery for two of them.",
    "def mean(values):\n    return sum(values) / len(values)\n\nprint(mean([1, 2, 3]))\n",
    "Die Rücksendung ist innerhalb von dreißig Tagen kostenlos; danach tragen Sie die Kosten.",
    "The capital of France is Paris. The capital of Japan is Tokyo. The capital of Peru is",
]


def log_probabilities(model, rows):
    with torch.no_grad():
        for row in rows:
            scores = model(input_ids=row[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
            yield scores.gather(1, row[1:, None])[:, 0].double()


def difference(found, right):
    return float(torch.cat([(a - b).abs() for a, b in zip(found, right)]).mean())


def quantised(model):
    """Every linear layer but the head in NF4."""
    for key, weight in model.named_parameters():
        if ".layers." in key and key.removesuffix(".weight").removesuffix(".base_layer").endswith("_proj") and weight.ndim == 2:
            blocks = weight.detach().float().reshape(-1, four_bit.BLOCK)
            weight.data = four_bit.quantise(blocks)["dequantised"].reshape(weight.shape).to(weight.dtype)
    return model


def report(name, rows, ways):
    """`ways` make the model anew; the first is what the others are compared with."""
    results = {way: list(log_probabilities(make().eval(), rows)) for way, make in ways.items()}
    right = next(iter(results.values()))
    print(name, {way: f"{difference(found, right):.1e}" for way, found in list(results.items())[1:]}, flush=True)


def smollm2():
    path = Path(os.environ["FINETUNE_SMOLLM2_GGUF"])

    def load(dtype=torch.float32, attention="eager"):
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype, attn_implementation=attention)

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    rows = [torch.tensor(tokenizer(text)["input_ids"][:MOST_TOKENS]) for text in TEXTS]
    report("SmolLM2-135M-Instruct", rows, {
        "fp32": load,
        "fp32 sdpa": lambda: load(attention="sdpa"),
        "bf16": lambda: load(torch.bfloat16),
        "bf16 sdpa": lambda: load(torch.bfloat16, "sdpa"),
        "nf4": lambda: quantised(load()),
    })


def main():
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for name in families.FAMILIES:
        folder = FIXTURES / "families" / name
        rows = [row for tokens, _ in bf16.batches()[:4] for row in tokens]
        report(name, rows, {
            "fp32": lambda: families.load_adapter(folder, name),
            "bf16": lambda: bf16.load(folder, name),
            "nf4": lambda: quantised(families.load_adapter(folder, name)),
            "no adapter": lambda: families.load(folder, name),
        })
    smollm2()


if __name__ == "__main__":
    main()
