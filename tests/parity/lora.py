"""PEFT adapters on the tiny models, and what transformers + peft compute with them: loss, hidden states, gradients.

Also the mutation proof: the same numbers from deliberately wrong models, which must differ from the right ones.
"""

import contextlib
import json
from unittest import mock

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers.models.llama import modeling_llama

import precision
import tiny

RANK, ALPHA = 4, 8
IGNORED = -100
# Of the seeds 0 to 59, the one whose batch lets every mutation move even the mean loss of its few tokens by 1e-2;
# the logits move by 0.4 and more with any of them.
BATCH_SEED = 46
# Adapter folder: base model and whether the scale is alpha / sqrt(rank).
ADAPTERS = {
    "tiny-llama": ("tiny-llama", False),
    "tiny-llama-rslora": ("tiny-llama", True),
    "tiny-llama-bias": ("tiny-llama-bias", False),
    "tiny-llama-64": ("tiny-llama-64", False),
}


def write_adapters(out):
    """Each adapter in the folder layout that peft itself writes, B not zero."""
    for name, (base, rslora) in ADAPTERS.items():
        model = tiny.load(out, base)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=RANK,
            lora_alpha=ALPHA,
            use_rslora=rslora,
            target_modules="all-linear",
        )
        model = get_peft_model(model, config)
        with torch.no_grad():
            for key, value in adapter_parameters(model).items():
                std = value.shape[1] ** -0.5 if "lora_A" in key else 0.2
                value.copy_(tiny.normal(tuple(value.shape), std, base, "adapter", key))
        folder = out / "adapters" / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        written = json.loads((folder / "adapter_config.json").read_text())
        written["target_modules"].sort()
        # A relative name: a path of the machine that made the fixture must not get into it.
        written["base_model_name_or_path"] = base
        (folder / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True))


def load_adapter(out, name):
    model = PeftModel.from_pretrained(tiny.load(out, ADAPTERS[name][0]), out / "adapters" / name, is_trainable=True)
    return model.train()


def adapter_parameters(model):
    """Trainable tensors by the names that they have in adapter_model.safetensors."""
    return {k.replace(".default", ""): v for k, v in sorted(model.named_parameters()) if "lora_" in k}


def batch(name, rows=2, length=12):
    """Token ids (rows, length) and labels; the first tokens of each row, and one in the middle, carry no loss."""
    random = tiny.generator("batch", f"{name} {BATCH_SEED}")
    tokens = torch.from_numpy(random.integers(3, tiny.VOCABULARY, (rows, length)))
    labels = tokens.clone()
    for row in range(rows):
        labels[row, : 3 + 2 * (row % 2)] = IGNORED
        labels[row, length // 2 + 1] = IGNORED
    return tokens, labels


def forward(model, tokens, labels, attention_mask=None):
    """Loss, logits and the residual stream: hidden.0 is the embedding, hidden.N what layer N-1 gives."""
    hidden = {}
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    body = base.model

    def keep(key):
        def hook(_module, _inputs, output):
            hidden[key] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        return hook

    hooks = [body.embed_tokens.register_forward_hook(keep("hidden.0")), body.norm.register_forward_hook(keep("hidden.norm"))]
    hooks += [layer.register_forward_hook(keep(f"hidden.{i + 1}")) for i, layer in enumerate(body.layers)]
    output = model(input_ids=tokens, labels=labels, attention_mask=attention_mask, use_cache=False)
    for hook in hooks:
        hook.remove()
    return output.loss, output.logits, hidden


def expected(model, parameters, tokens, labels):
    """Everything that a forward and a backward pass give, as one flat dictionary of tensors."""
    model.zero_grad()
    loss, logits, hidden = forward(model, tokens, labels)
    loss.backward()
    return {
        "tokens": tokens,
        "labels": labels,
        "loss": loss.detach().reshape(1),
        "logits": logits.detach(),
        **hidden,
        **{f"grad.{key}": value.grad.clone() for key, value in parameters.items()},
    }


def save(tensors, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)


def write_expected(out):
    def with_adapter(name, base):
        model = load_adapter(out, name)
        tensors = expected(model, adapter_parameters(model), *batch(base))
        return tensors if name == "tiny-llama-rslora" else tensors | ragged(model, base)

    def whole(name):
        model = tiny.load(out, name)
        return expected(model, dict(sorted(model.named_parameters())), *batch(name))

    for name, (base, _) in ADAPTERS.items():
        path = out / "expected" / f"lora-{name}.safetensors"
        precision.save(lambda: with_adapter(name, base), path, half=name in ("tiny-llama", "tiny-llama-64"))
    for name in ("tiny-llama", "tiny-llama-bias"):
        precision.save(lambda: whole(name), out / "expected" / f"full-{name}.safetensors", half=name == "tiny-llama-bias")


def ragged(model, base):
    """Rows of different lengths, padded on the right: the loss is the mean over all unmasked tokens of all rows."""
    lengths = [12, 5, 9]
    tokens, labels = batch(f"{base} ragged", rows=3)
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
        tokens[row, length:] = tiny.END_OF_TURN
        labels[row, length:] = IGNORED
    model.zero_grad()
    loss, _, _ = forward(model, tokens, labels, mask)
    loss.backward()
    # The same again row by row, without padding or mask, so that a packed trainer can rest on it.
    total, count = 0.0, 0
    for row, length in enumerate(lengths):
        weight = int((labels[row, 1:length] != IGNORED).sum())
        with torch.no_grad():
            total += float(forward(model, tokens[row : row + 1, :length], labels[row : row + 1, :length])[0]) * weight
        count += weight
    if precision.kind() is not torch.bfloat16 and abs(total / count - float(loss.detach())) > 1e-5 * float(loss.detach()):
        raise SystemExit(f"{base}: padded rows give loss {float(loss)}, single rows {total / count}")
    return {
        "ragged.tokens": tokens,
        "ragged.labels": labels,
        "ragged.lengths": torch.tensor(lengths),
        "ragged.loss": loss.detach().reshape(1),
        **{f"ragged.grad.{key}": value.grad.clone() for key, value in adapter_parameters(model).items()},
    }


# === the mutation proof ===


def rope_interleaved(q, k, cos, sin, unsqueeze_dim=1):
    def turn(x):
        half = x.shape[-1] // 2
        mixed = torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
        turned = mixed * cos.unsqueeze(1) + torch.cat((-mixed[..., half:], mixed[..., :half]), dim=-1) * sin.unsqueeze(1)
        return torch.stack((turned[..., :half], turned[..., half:]), dim=-1).flatten(-2)

    return turn(q), turn(k)


def layer_without(attention_residual, mlp_residual):
    def forward(self, hidden_states, **kwargs):
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = attended + hidden_states if attention_residual else attended
        fed = self.mlp(self.post_attention_layernorm(hidden_states))
        return fed + hidden_states if mlp_residual else fed

    return forward


def attention(query_factor=1.0, causal=True, window=None, tiled_heads=False):
    def forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
        groups, length = module.num_key_value_groups, query.shape[2]
        key, value = (x.repeat(1, groups, 1, 1) if tiled_heads else x.repeat_interleave(groups, 1) for x in (key, value))
        scores = query @ key.transpose(2, 3) * scaling * query_factor
        distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        hidden = (distance < 0) & causal
        if window is not None:
            hidden |= distance >= window
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    return forward


@contextlib.contextmanager
def lora_scale(model, factor):
    layers = [module for module in model.modules() if hasattr(module, "scaling") and isinstance(module.scaling, dict)]
    for layer in layers:
        layer.scaling["default"] *= factor
    yield
    for layer in layers:
        layer.scaling["default"] /= factor


@contextlib.contextmanager
def every(model, kind, change, undo):
    modules = [module for module in model.modules() if isinstance(module, kind)]
    saved = [change(module) for module in modules]
    yield
    for module, before in zip(modules, saved):
        undo(module, before)


def set_attribute(name, value):
    def change(module):
        before = getattr(module, name)
        setattr(module, name, value(before))
        return before

    return change, lambda module, before: setattr(module, name, before)


def norm_weight_one():
    def change(module):
        before = module.weight.data
        module.weight.data = torch.ones_like(before)
        return before

    return change, lambda module, before: setattr(module.weight, "data", before)


def mutations(model):
    """Name to a context in which the model is wrong in exactly that way."""
    llama = modeling_llama
    right_turn = llama.rotate_half
    swap = lambda name, value: mock.patch.object(llama, name, value)  # noqa: E731
    layer = lambda *keep: mock.patch.object(llama.LlamaDecoderLayer, "forward", layer_without(*keep))  # noqa: E731
    return {
        "no_rope": swap("apply_rotary_pos_emb", lambda q, k, cos, sin, unsqueeze_dim=1: (q, k)),
        "interleaved_rope": swap("apply_rotary_pos_emb", rope_interleaved),
        "reversed_rope": swap("rotate_half", lambda x: -right_turn(x)),
        "non_causal_mask": swap("eager_attention_forward", attention(causal=False)),
        "window_of_four": swap("eager_attention_forward", attention(window=4)),
        "unscaled_attention": swap("eager_attention_forward", attention(query_factor=8**0.5)),
        "tiled_key_value_heads": swap("eager_attention_forward", attention(tiled_heads=True)),
        "no_attention_residual": layer(False, True),
        "no_mlp_residual": layer(True, False),
        "no_norm_weight": every(model, llama.LlamaRMSNorm, *norm_weight_one()),
        "gelu_for_silu": every(model, llama.LlamaMLP, *set_attribute("act_fn", lambda _: torch.nn.GELU())),
        "lora_scale_without_alpha": lora_scale(model, 1 / ALPHA),
        "lora_scale_of_rslora": lora_scale(model, RANK**0.5),
        "no_lora": model.disable_adapter(),
    }


def write_mutations(out):
    (out / "expected").mkdir(exist_ok=True)
    precision.save_losses(lambda: mutated(out), out / "expected" / "mutations.json")


def mutated(out):
    """The mutated losses, each further than one per cent from the right one, and the distance of the gradients."""
    model = load_adapter(out, "tiny-llama")
    tokens, labels = batch("tiny-llama")
    right = expected(model, adapter_parameters(model), tokens, labels)
    report = {"loss": float(right["loss"]), "mutations": {}}

    def note(name, wrong):
        moved = abs(float(wrong["loss"]) / report["loss"] - 1)
        if moved <= 1e-2:
            raise SystemExit(f"mutation {name} moves the loss by {moved:.1e} only, expected more than 1e-2")
        report["mutations"][name] = {"loss": float(wrong["loss"]), "relative": moved}
        if "logits" in wrong:
            distance = (wrong["logits"] - right["logits"]).norm() / right["logits"].norm()
            report["mutations"][name]["logits_relative"] = float(distance)
        gradients = [key for key in right if key.startswith("grad.")]
        if all(key in wrong for key in gradients):
            distance = sum(float((wrong[key] - right[key]).square().sum()) for key in gradients) ** 0.5
            size = sum(float(right[key].square().sum()) for key in gradients) ** 0.5
            report["mutations"][name]["gradient_relative"] = distance / size

    # The checks first: an unchanged stand-in must give the right loss, or the mutations prove nothing.
    for stand_in in (
        mock.patch.object(modeling_llama, "eager_attention_forward", attention()),
        mock.patch.object(modeling_llama.LlamaDecoderLayer, "forward", layer_without(True, True)),
    ):
        with stand_in:
            same = float(forward(model, tokens, labels)[0].detach())
        if abs(same / report["loss"] - 1) > 1e-5:
            raise SystemExit(f"an unchanged stand-in gives loss {same}, expected {report['loss']}")
    for name, context in mutations(model).items():
        with context:
            trainable = {key: value for key, value in adapter_parameters(model).items() if value.requires_grad}
            if name == "no_lora":
                note(name, {"loss": forward(model, tokens, labels)[0].detach()})
            else:
                note(name, expected(model, trainable, tokens, labels))
    logits = right["logits"]
    cross_entropy = torch.nn.functional.cross_entropy
    flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    note("labels_not_shifted", {"loss": cross_entropy(flat(logits), labels.flatten())})
    note("prompt_not_masked", {"loss": cross_entropy(flat(logits[:, :-1]), tokens[:, 1:].flatten())})
    summed = cross_entropy(flat(logits[:, :-1]), labels[:, 1:].flatten(), reduction="sum")
    note("divided_by_all_tokens", {"loss": summed / labels[:, 1:].numel()})
    return report
