"""Loads an adapter that our trainer wrote into transformers + peft, compares what both compute, and prints what it does to the loss.

    python tests/parity/check_peft_load.py ADAPTER BASE [--tokens TOKENS.safetensors] [--save FOLDER]

ADAPTER is the directory with adapter_config.json, BASE the model's directory, or a GGUF file. TOKENS holds `tokens` and
`labels` (B, T), as the fixtures do; without it, fixed random tokens are used. Prints one JSON object. Fails when peft
warns of a missing, unexpected or unused key, when the adapter changes nothing, or when log-probabilities are further than 1e-5 (by the
largest) from those that our trainer wrote into golden.json. With --save, peft writes the adapter anew, for our trainer to read.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


TOLERANCE = 1e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()

    base = load_base(arguments.base)
    tokens, labels = read_tokens(arguments.tokens, base.config.vocab_size)
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        base_loss = float(base(input_ids=tokens, labels=labels).loss)
        golden = json.loads((arguments.adapter / "golden.json").read_text())["samples"]
        far = [distance(base, sample["tokens"], sample["base"]) for sample in golden]
        model = PeftModel.from_pretrained(base, arguments.adapter).eval()
        adapter_loss = float(model(input_ids=tokens, labels=labels).loss)
        far += [distance(model, sample["tokens"], sample["adapter"]) for sample in golden]
    faults = [str(w.message) for w in caught if "keys" in str(w.message).lower() or "adapter" in str(w.message).lower()]
    faults += differences(get_peft_model_state_dict(model), load_file(arguments.adapter / "adapter_model.safetensors"))
    if not max(far) <= TOLERANCE:
        faults.append(f"log-probabilities are {max(far):.1e} from golden.json, expected at most {TOLERANCE:.0e}")
    if arguments.save:
        model.save_pretrained(arguments.save)
    if adapter_loss == base_loss:
        faults.append(f"the adapter changes nothing: the loss is {base_loss} with and without it")
    config = model.peft_config["default"]
    print(json.dumps({
        "base_loss": base_loss,
        "adapter_loss": adapter_loss,
        "log_probabilities_off_by": max(far),
        "rank": config.r,
        "alpha": config.lora_alpha,
        "modules": sum(hasattr(module, "lora_A") for module in model.modules()),
        "faults": faults,
    }))
    sys.exit(1 if faults else 0)


def distance(model, tokens, expected):
    """Of the log-probabilities of all tokens but the first from those expected, by the largest of these."""
    tokens, expected = torch.tensor(tokens), torch.tensor(expected, dtype=torch.float64)
    scores = model(input_ids=tokens[None]).logits[0, :-1].double().log_softmax(-1)
    found = scores.gather(1, tokens[1:, None])[:, 0]
    return float((found - expected).abs().max() / expected.abs().max())


def load_base(path):
    arguments = {"dtype": torch.float32, "attn_implementation": "eager"}
    if path.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **arguments).eval()
    return AutoModelForCausalLM.from_pretrained(path, **arguments).eval()


def read_tokens(path, vocabulary):
    if path is None:
        tokens = torch.randint(0, vocabulary, (2, 32), generator=torch.Generator().manual_seed(0))
        return tokens, tokens
    tensors = load_file(path)
    return tensors["tokens"].long(), tensors["labels"].long()


def differences(loaded, written):
    """peft must hold exactly the tensors of the file, under the same names and with the same values."""
    faults = [f"{key}: is in the file, but peft did not load it" for key in sorted(written.keys() - loaded.keys())]
    faults += [f"{key}: peft expects it, but the file lacks it" for key in sorted(loaded.keys() - written.keys())]
    for key in sorted(loaded.keys() & written.keys()):
        if loaded[key].dtype != written[key].dtype or not torch.equal(loaded[key], written[key]):
            faults.append(f"{key}: peft holds other values than the file")
    return faults


if __name__ == "__main__":
    main()
