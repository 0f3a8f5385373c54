"""Tokens a second of the reference stack (transformers, peft, bitsandbytes) on the model and the rows that `step` measures.

Called by the benchmark, as `peer.py METHOD COMPUTE ROWSxTOKENS THREADS`; prints one line of JSON. The weights are random: no file is read.
"""

import json
import sys
import time

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import LlamaConfig, LlamaForCausalLM

STEPS = 5


def model(method, dtype):
    """SmolLM2-135M's shape with an adapter of rank 16 on all linear layers."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
        use_cache=False,
    )
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).to(dtype)
    if method == "QLoRA":
        quantise(base, dtype)
        # As peft advises for a quantised base, but without recomputation: memory is not what is compared here.
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False).to(dtype)
    else:
        base.requires_grad_(False)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(base, lora)


def quantise(base, dtype):
    """Puts bitsandbytes' layers in the place of the linear ones, as transformers does when it loads."""
    import bitsandbytes as bnb

    for layer in base.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    quantised = bnb.nn.Linear4bit(
                        linear.in_features,
                        linear.out_features,
                        bias=False,
                        compute_dtype=dtype,
                        compress_statistics=True,
                        quant_type="nf4",
                    )
                    quantised.weight = bnb.nn.Params4bit(
                        linear.weight.data,
                        requires_grad=False,
                        compress_statistics=True,
                        quant_type="nf4",
                    )
                    setattr(part, name, quantised.to("cpu"))
    base.is_loaded_in_4bit = True


def main():
    method, compute, batch, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    dtype = {"Float": torch.float32, "BFloat16": torch.bfloat16}[compute]
    rows, length = (int(number) for number in batch.split("x"))
    trained = model(method, dtype)
    trained.train()
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    tokens = torch.tensor([[(row * 7919 + at * 104_729) % 49152 for at in range(length)] for row in range(rows)])

    def step():
        start = time.perf_counter()
        optimizer.zero_grad()
        trained(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return time.perf_counter() - start

    step()
    fastest = min(step() for _ in range(STEPS))
    with open("/proc/self/status", encoding="utf-8") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    print(json.dumps({"tokens_per_second": rows * length / fastest, "peak_kibibytes": peak}))


if __name__ == "__main__":
    main()
