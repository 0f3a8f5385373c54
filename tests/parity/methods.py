"""What peft computes for the further settings of LoRA: patterns with rank-stabilised scales, DoRA (dense and in 4 bits), dropout; and
NEFTune's noise in the embedding; and the dropout of the attention that the base's own configuration may ask for.

Random masks and noise are no torch state here but a function of a key (see `uniform`), the same that the trainer computes: so that
also what is random can be compared. Every setting is also computed wrongly in the ways that an implementation may get it wrong.
"""

import contextlib
import hashlib
import json
import struct
from unittest import mock

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import dora
from peft.tuners.lora import layer as peft_layer
from safetensors.torch import load_file

import four_bit
import lora
import precision
import tiny

STEPS, LEARNING_RATE, CLIP = 4, 1e-2, 1.0
DROPOUT, NOISE_ALPHA = 0.25, 5.0
SEED, STEP, MICRO_BATCH = 11, 3, 1
# Settings of which steps are kept too.
STEPPED = ("patterns", "dora", "dora-nf4")

PATTERNS = {
    "use_rslora": True,
    # A name, a full path, a regular expression, and one that must not hit `gate_proj` by being its ending.
    "rank_pattern": {"e_proj": 7, "model.layers.1.mlp.down_proj": 2, "q_proj": 8, r"layers\.[02]\.self_attn\.v_proj": 3},
    "alpha_pattern": {"mlp.up_proj": 3, "q_proj": 5},
}
# Adapter folder: base model and what its configuration says beside rank and alpha.
ADAPTERS = {
    "tiny-llama-patterns": ("tiny-llama", PATTERNS),
    "tiny-llama-bias-dora": ("tiny-llama-bias", {"use_dora": True}),
    "tiny-llama-64-dora": ("tiny-llama-64", {"use_dora": True}),
}


def write_adapters(out):
    """Each adapter in the folder layout that peft itself writes; B is not zero and no magnitude the norm of its row."""
    for name, (base, settings) in ADAPTERS.items():
        config = LoraConfig(task_type="CAUSAL_LM", r=lora.RANK, lora_alpha=lora.ALPHA, target_modules="all-linear", **settings)
        model = get_peft_model(tiny.load(out, base), config)
        with torch.no_grad():
            for key, value in parameters(model).items():
                if key.endswith("lora_magnitude_vector"):
                    value.mul_(1 + tiny.normal(tuple(value.shape), 0.2, name, "adapter", key))
                else:
                    std = value.shape[1] ** -0.5 if "lora_A" in key else 0.1
                    value.copy_(tiny.normal(tuple(value.shape), std, name, "adapter", key))
        folder = out / "adapters" / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        written = json.loads((folder / "adapter_config.json").read_text())
        written["target_modules"].sort()
        written["base_model_name_or_path"] = base
        (folder / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True))


def load(out, base, adapter, quantised=False, **changes):
    """Base and adapter. The configuration may be changed before the adapter is put on."""
    model = tiny.load(out, base)
    if quantised:
        # Out of the fp32 weights whatever the precision of now is, as the trainer quantises those of the file.
        with precision.single():
            dense = dict(tiny.load(out, base).named_parameters())
        for key, weight in model.named_parameters():
            if key.endswith("_proj.weight"):
                weight.data = four_bit.quantise(dense[key].detach())["dequantised"].to(weight.dtype)
    folder = out / "adapters" / adapter
    config = LoraConfig.from_pretrained(folder)
    for key, value in changes.items():
        setattr(config, key, value)
    return PeftModel.from_pretrained(model, folder, config=config, is_trainable=True).train()


def parameters(model):
    """Trainable tensors by the names that they have in adapter_model.safetensors."""
    file_name = lambda key: key.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")  # noqa: E731
    return {file_name(key): value for key, value in sorted(model.named_parameters()) if "lora_" in key}


def loss_and_gradients(model, base):
    tokens, labels = lora.batch(base)
    model.zero_grad()
    loss, _, _ = lora.forward(model, tokens, labels)
    loss.backward()
    return loss.detach().reshape(1), {key: value.grad.clone() for key, value in parameters(model).items()}


def trajectory(model):
    """Losses before each step and gradient norms before clipping."""
    trained = list(parameters(model).values())
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss, _, _ = lora.forward(model, *lora.batch(f"methods {step}"))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, CLIP))
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), torch.stack(norms).detach()


# === what is random ===


def key(name):
    """The two 32-bit words that everything random of one step, micro-batch and module comes from."""
    digest = hashlib.sha256(struct.pack("<QQQ", SEED, STEP, MICRO_BATCH) + name.encode()).digest()
    return struct.unpack("<II", digest[:8])


def mix(x):
    """A bijection of 32 bits in which every bit of the result depends on every bit of x."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def uniform(name, rows, columns):
    """Numbers in [0, 1), 24 bits each: a function of the key, the row and the column alone."""
    first, second = (np.uint32(word) for word in key(name))
    of_row = mix(mix(np.arange(rows, dtype=np.uint32) ^ first) ^ second)
    bits = mix((np.arange(columns, dtype=np.uint32) * np.uint32(0x9E3779B9))[None, :] ^ of_row[:, None])
    return torch.from_numpy((bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-24))


class Mask(torch.nn.Module):
    """Dropout by the numbers of one module."""

    def __init__(self, name, rescale):
        super().__init__()
        self.name, self.factor = name, 1 / (1 - DROPOUT) if rescale else 1.0

    def forward(self, x):
        kept = uniform(self.name, x.shape[:-1].numel(), x.shape[-1]) >= DROPOUT
        return x * (kept.reshape(x.shape) * self.factor)


def drop(model, rescale=True):
    """Puts the masks into a peft model. peft drops in training mode only; nothing else in a Llama depends on that mode."""
    for name, module in model.named_modules():
        if isinstance(module, peft_layer.Linear):
            module.lora_dropout["default"] = Mask(name.removeprefix("base_model.model."), rescale)
    return model.train()


@contextlib.contextmanager
def dropped_attention(model, rescale=True):
    """A base whose configuration has `attention_dropout`: transformers drops probabilities (B, heads, T, S), layer by layer."""
    names = [name.removeprefix("base_model.model.") for name, module in model.named_modules() if name.endswith(".self_attn")]
    layers = iter(names)

    def dropout(probabilities, p, training):
        if not training or p != DROPOUT:
            raise SystemExit(f"transformers drops {p} of the attention, in training {training}, expected {DROPOUT}")
        return Mask(next(layers), rescale)(probabilities)

    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = DROPOUT
    model.train()
    with mock.patch.object(torch.nn.functional, "dropout", dropout):
        yield
    if next(layers, None) is not None:
        raise SystemExit("transformers did not drop in every layer")


@contextlib.contextmanager
def noisy_embedding(model, dimensions=lambda x: x.shape[1] * x.shape[2]):
    """transformers' neftune_post_forward_hook with the noise of our key."""

    def hook(_module, _inputs, output):
        noise = uniform("embedding", output.shape[0] * output.shape[1], output.shape[2]) * 2 - 1
        return output + noise.reshape(output.shape).to(output.dtype) * (NOISE_ALPHA / dimensions(output) ** 0.5)

    handle = model.get_base_model().model.embed_tokens.register_forward_hook(hook)
    yield
    handle.remove()


# === what is written ===


def settings(out):
    """Name to base model and a function that gives the peft model."""
    patterns = lambda: load(out, "tiny-llama", "tiny-llama-patterns")  # noqa: E731
    dense = lambda: load(out, "tiny-llama-bias", "tiny-llama-bias-dora")  # noqa: E731
    return {
        "patterns": ("tiny-llama", patterns),
        "dora": ("tiny-llama-bias", dense),
        "dora-nf4": ("tiny-llama-64", lambda: load(out, "tiny-llama-64", "tiny-llama-64-dora", quantised=True)),
        "dropout": ("tiny-llama", lambda: drop(lora.load_adapter(out, "tiny-llama"))),
        "dora-dropout": ("tiny-llama-bias", lambda: drop(dense())),
        "noise": ("tiny-llama-bias", lambda: lora.load_adapter(out, "tiny-llama-bias")),
        "attention-dropout": ("tiny-llama", lambda: lora.load_adapter(out, "tiny-llama")),
    }


def random_context(name, model):
    """What makes a pass random where the setting is not one of the adapter's."""
    contexts = {"noise": noisy_embedding, "attention-dropout": dropped_attention}
    return contexts[name](model) if name in contexts else contextlib.nullcontext()


def write_expected(out):
    for name, (base, make) in settings(out).items():
        path = out / "expected" / f"methods-{name}.safetensors"
        precision.save(lambda: numbers(name, base, make), path, half=name in STEPPED)


def numbers(name, base, make):
    model = make()
    with random_context(name, model):
        loss, gradients = loss_and_gradients(model, base)
    tokens, labels = lora.batch(base)
    tensors = {"tokens": tokens, "labels": labels, "loss": loss, **{f"grad.{k}": v for k, v in gradients.items()}}
    if name in STEPPED:
        batches = [lora.batch(f"methods {step}") for step in range(STEPS)]
        tensors["trajectory.tokens"] = torch.stack([b[0] for b in batches])
        tensors["trajectory.labels"] = torch.stack([b[1] for b in batches])
        tensors["trajectory.losses"], tensors["trajectory.grad_norms"] = trajectory(make())
    return tensors


# === the mutation proof ===


def undetached_norm():
    """DoRA whose gradient goes through the norm too."""

    def forward(self, x, *, lora_A, lora_B, scaling, base_layer, base_result=None, adapter_name="default"):
        weight = base_layer.weight + scaling * lora_B.weight @ lora_A.weight
        factor = (self.weight / torch.linalg.norm(weight, dim=1)).view(1, -1)
        base_result = torch.nn.functional.linear(x, base_layer.weight)
        return (factor - 1) * base_result + factor * lora_B(lora_A(x)) * scaling

    return mock.patch.object(dora.DoraLinearLayer, "forward", forward)


def norm_of(weight_norm):
    return mock.patch.object(dora.DoraLinearLayer, "get_weight_norm", weight_norm)


def scaled_bias():
    """DoRA whose magnitude acts on the bias too."""

    def forward(self, x, *, lora_A, lora_B, scaling, base_layer, base_result=None, adapter_name="default"):
        norm = self.get_weight_norm(base_layer.weight, (lora_B.weight @ lora_A.weight).detach(), scaling).detach()
        factor = (self.weight / norm).view(1, -1)
        return (factor - 1) * base_layer(x) + factor * lora_B(lora_A(x)) * scaling

    return mock.patch.object(dora.DoraLinearLayer, "forward", forward)


def mutations(out):
    """Setting to name to (model, context): wrong in exactly that way."""
    plain = contextlib.nullcontext
    patterns = lambda **changes: load(out, "tiny-llama", "tiny-llama-patterns", **changes)  # noqa: E731
    dense = lambda: load(out, "tiny-llama-bias", "tiny-llama-bias-dora")  # noqa: E731
    four_bits = lambda quantised: load(out, "tiny-llama-64", "tiny-llama-64-dora", quantised=quantised)  # noqa: E731

    def scaled(factor):
        model = patterns()
        for module in model.modules():
            if isinstance(module, peft_layer.Linear):
                module.scaling["default"] = factor(module.lora_alpha["default"], module.r["default"])
        return model

    noise = lora.load_adapter(out, "tiny-llama-bias")
    attention = lora.load_adapter(out, "tiny-llama")
    return {
        "patterns": {
            "no_alpha_pattern": (patterns(alpha_pattern={}), plain()),
            "scale_of_plain_lora": (scaled(lambda alpha, rank: alpha / rank), plain()),
            "scale_of_the_common_rank": (scaled(lambda alpha, _: alpha / lora.RANK**0.5), plain()),
        },
        "dora": {
            "undetached_norm": (dense(), undetached_norm()),
            "norm_of_the_base": (dense(), norm_of(lambda self, weight, lora_weight, scaling, adapter_name=None: weight.norm(dim=1))),
            "norm_without_scale": (dense(), norm_of(lambda self, weight, lora_weight, scaling, adapter_name=None: (weight + lora_weight).norm(dim=1))),
            "scaled_bias": (dense(), scaled_bias()),
        },
        "dora-nf4": {"undetached_norm": (four_bits(True), undetached_norm()), "dense_base": (four_bits(False), plain())},
        "dropout": {"not_rescaled": (drop(lora.load_adapter(out, "tiny-llama"), rescale=False), plain()), "none": (lora.load_adapter(out, "tiny-llama"), plain())},
        "dora-dropout": {"none": (dense(), plain())},
        "noise": {
            "none": (noise, plain()),
            "by_the_width_alone": (noise, noisy_embedding(noise, lambda x: x.shape[2])),
        },
        "attention-dropout": {
            "none": (attention, plain()),
            "not_rescaled": (attention, dropped_attention(attention, rescale=False)),
        },
    }


def write_mutations(out):
    precision.save_losses(lambda: mutated(out), out / "expected" / "methods-mutations.json")
    prove_patterns(out)


def mutated(out):
    report = {}
    bases = {name: base for name, (base, _) in settings(out).items()}
    for setting, wrong in mutations(out).items():
        right = load_file(out / "expected" / f"methods-{setting}.safetensors")
        size = sum(float(v.square().sum()) for k, v in right.items() if k.startswith("grad.")) ** 0.5
        report[setting] = {}
        for name, (model, context) in wrong.items():
            with context:
                loss, gradients = loss_and_gradients(model, bases[setting])
            distance = sum(float((v - right[f"grad.{k}"]).square().sum()) for k, v in gradients.items()) ** 0.5 / size
            if distance <= 1e-2:
                raise SystemExit(f"{setting}: {name} moves the gradient by {distance:.1e} only, expected more than 1e-2")
            moved = abs(float(loss / right["loss"]) - 1)
            if name != "undetached_norm" and moved <= 1e-3:
                raise SystemExit(f"{setting}: {name} moves the loss by {moved:.1e} only, expected more than 1e-3")
            report[setting][name] = {"loss": float(loss), "relative": moved, "gradient_relative": distance}
    return report


def prove_patterns(out):
    """The ranks that peft gave: `e_proj` is no ending at a dot, so it must have hit nothing."""
    tensors = load_file(out / "adapters" / "tiny-llama-patterns" / "adapter_model.safetensors")
    ranks = {k.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): v.shape[0] for k, v in tensors.items() if "lora_A" in k}
    expected = {"model.layers.1.mlp.down_proj": 2, "model.layers.0.self_attn.v_proj": 3, "model.layers.2.self_attn.v_proj": 3}
    expected |= {f"model.layers.{layer}.self_attn.q_proj": 8 for layer in range(3)}
    if ranks != {module: expected.get(module, lora.RANK) for module in ranks}:
        raise SystemExit(f"peft matched the patterns otherwise: {ranks}")
