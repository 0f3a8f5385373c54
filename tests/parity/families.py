"""Tiny random models of every family: what transformers + peft compute with them, and with each operation of a family wrong.

One folder a family: `config.json` in the keys that published checkpoints have, weights in bf16, a tokenizer of words, an adapter of peft on
all linear layers, and the expected numbers. Rows are longer than every window and than every original length.
"""

import json
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3ForConditionalGeneration
from transformers.activations import ACT2FN

import four_bit
import lora
import precision
import tiny

VOCABULARY, ROWS, LENGTH, SHORT = 96, 2, 14, 6
RANK, ALPHA, STEPS, LEARNING_RATE = 2, 4, 4, 1e-2
# What a mutation must move the logits by: a thousand times the tolerance.
MOVED = 1e-2
BF16 = torch.bfloat16

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
LLAMA = SHAPE | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "mlp_bias": False,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 500.0,
    "tie_word_embeddings": False,
}
GEMMA2 = SHAPE | {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 3.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 4.0,
    "head_dim": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 10,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "sliding_window": 5,
}
GEMMA3 = SHAPE | {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": None,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_hidden_layers": 3,
    "query_pre_attn_scalar": 10,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 20.0,
    "rope_scaling": {"factor": 4.0, "rope_type": "linear"},
    "rope_theta": 500.0,
    "sliding_window": 5,
    "sliding_window_pattern": 2,
}
FAMILIES = {
    "llama": LLAMA,
    # A head that is not hidden / heads.
    "mistral": SHAPE
    | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "attention_dropout": 0.0,
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4,
        "tie_word_embeddings": False,
    },
    # Only the last layer has a window.
    "qwen2": SHAPE
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "max_window_layers": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000.0,
        "sliding_window": 5,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
    },
    # In the keys of transformers 5.
    "qwen3": SHAPE
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "head_dim": 16,
        "hidden_act": "silu",
        "layer_types": ["full_attention", "full_attention"],
        "max_window_layers": 28,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
    },
    # One key head for all.
    "gemma": SHAPE
    | {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 16,
        "hidden_act": "gelu",
        "hidden_activation": None,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 10000.0,
    },
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "gemma3-multimodal": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "boi_token_index": 3,
        "eoi_token_index": 4,
        "eos_token_id": [2],
        "image_token_index": 5,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 4,
        "text_config": {
            key: value for key, value in GEMMA3.items() if key not in ("architectures", "cache_implementation")
        }
        | {"num_hidden_layers": 2},
        "torch_dtype": "bfloat16",
        "vision_config": {
            "hidden_size": 8,
            "image_size": 8,
            "intermediate_size": 8,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "patch_size": 4,
            "vision_use_head": False,
        },
    },
    # 12 of the 16 elements of a head are turned.
    "phi3": SHAPE
    | {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "hidden_act": "silu",
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "original_max_position_embeddings": 8,
        "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0],
            "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4],
            "type": "longrope",
        },
        "rope_theta": 1000.0,
        "sliding_window": 10,
        "tie_word_embeddings": False,
    },
    "olmo2": SHAPE
    | {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000.0,
        "tie_word_embeddings": False,
    },
    "granite": SHAPE
    | {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "attention_multiplier": 0.15,
        "embedding_multiplier": 6.0,
        "hidden_act": "silu",
        "logits_scaling": 1.7,
        "mlp_bias": True,
        "residual_multiplier": 0.4,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
}
# Changes to the configuration of `llama`: every kind of rotation, with the same weights.
ROPES = {
    "linear": {"rope_scaling": {"type": "linear", "factor": 3.0}},
    "dynamic": {"max_position_embeddings": 8, "rope_scaling": {"type": "dynamic", "factor": 3.0}},
    # One frequency kept, one between, the others divided.
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 500.0,
            "factor": 4.0,
            "beta_fast": 8.0,
            "beta_slow": 0.5,
            "original_max_position_embeddings": 64,
        },
        "rope_theta": None,
    },
    "yarn-plain": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}},
    "longrope": {
        "rope_scaling": {
            "type": "longrope",
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "long_factor": [1.0, 2.0, 3.0, 5.0],
            "short_factor": [1.0, 1.1, 1.2, 1.3],
        }
    },
}

# === the files ===


def write_models(out):
    for name, keys in FAMILIES.items():
        folder = out / "families" / name
        folder.mkdir(parents=True)
        tiny.write_json(folder / "config.json", keys)
        write_tokenizer(folder)
        write_weights(folder, name)
        write_adapter(folder, name)


def write_tokenizer(folder):
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str())))
    special = {"bos_token": "w1", "eos_token": "w2", "pad_token": "w2", "unk_token": "w0"}
    tiny.write_json(folder / "tokenizer_config.json", special | {"tokenizer_class": "PreTrainedTokenizerFast"})


def write_weights(folder, name):
    """Rounded to bf16, so that the files are half as long and the reference in fp32 sees the same numbers."""
    config = AutoConfig.from_pretrained(folder)
    model = class_of(name).from_config(config) if name != "gemma3-multimodal" else class_of(name)(config)
    centre = 0.0 if name.startswith("gemma") else 1.0
    with torch.no_grad():
        for key, value in model.named_parameters():
            mean = centre if "norm" in key else 0.0
            value.copy_(tiny.normal(tuple(value.shape), tiny.WEIGHT_STD, "family", name, key, mean=mean).to(BF16))
    model.to(BF16).save_pretrained(folder / "saved")
    (folder / "saved" / "model.safetensors").rename(folder / "model.safetensors")
    shutil.rmtree(folder / "saved")


def write_adapter(folder, name):
    model = load(folder, name)
    text = "model.language_model" if name == "gemma3-multimodal" else "model"
    linear = [
        key
        for key, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and key.startswith(f"{text}.layers.")
    ]
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=linear)
    model = get_peft_model(model, config)
    with torch.no_grad():
        for key, value in lora.adapter_parameters(model).items():
            std = value.shape[1] ** -0.5 if "lora_A" in key else 0.2
            value.copy_(tiny.normal(tuple(value.shape), std, "family", name, "adapter", key))
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink()
    path = folder / "adapter" / "adapter_config.json"
    written = json.loads(path.read_text()) | {"base_model_name_or_path": name}
    written["target_modules"].sort()
    path.write_text(json.dumps(written, indent=2, sort_keys=True))


def class_of(name):
    return Gemma3ForConditionalGeneration if name == "gemma3-multimodal" else AutoModelForCausalLM


def load(folder, name, changes=None):
    """The reference with eager attention, in training mode, in the precision of now; `changes` are laid over the keys of config.json."""
    keys = json.loads((folder / "config.json").read_text()) | (changes or {})
    # Through a file, so that keys are read as those of a checkpoint are.
    changed = folder / "changed"
    changed.mkdir()
    try:
        tiny.write_json(changed / "config.json", keys)
        config = AutoConfig.from_pretrained(changed)
    finally:
        shutil.rmtree(changed)
    return class_of(name).from_pretrained(folder, config=config, dtype=precision.kind(), attn_implementation="eager").train()


def load_adapter(folder, name, changes=None):
    """In bf16 the adapter is in fp32, as peft puts it there by default."""
    return PeftModel.from_pretrained(load(folder, name, changes), folder / "adapter", is_trainable=True).train()


# === the numbers ===


def batch(name, length=LENGTH):
    """Token ids (rows, length) and labels; the first tokens of each row, and one in the middle, carry no loss."""
    random = tiny.generator("family batch", name)
    tokens = torch.from_numpy(random.integers(3, VOCABULARY, (ROWS, length)))
    # 3 to 5 stand for images in the multimodal model.
    tokens = tokens.clamp(min=6)
    labels = tokens.clone()
    for row in range(ROWS):
        labels[row, : 2 + row] = lora.IGNORED
        labels[row, length // 2] = lora.IGNORED
    return tokens, labels


def body_of(model):
    body = (model.get_base_model() if isinstance(model, PeftModel) else model).model
    return getattr(body, "language_model", body)


def forward(model, tokens, labels):
    """Loss, logits and the residual stream: hidden.0 is what the first layer takes, hidden.N what layer N-1 gives."""
    hidden, body = {}, body_of(model)

    def keep(key):
        def hook(_module, _inputs, output):
            hidden[key] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        return hook

    def keep_input(_module, inputs, keywords):
        hidden["hidden.0"] = (inputs[0] if inputs else keywords["hidden_states"]).detach().clone()

    hooks = [body.layers[0].register_forward_pre_hook(keep_input, with_kwargs=True)]
    hooks += [layer.register_forward_hook(keep(f"hidden.{i + 1}")) for i, layer in enumerate(body.layers)]
    hooks += [body.norm.register_forward_hook(keep("hidden.norm"))]
    output = model(input_ids=tokens, labels=labels, use_cache=False)
    for hook in hooks:
        hook.remove()
    return output.loss, output.logits, hidden


def expected(model, tokens, labels):
    model.zero_grad()
    loss, logits, hidden = forward(model, tokens, labels)
    loss.backward()
    gradients = {f"grad.{key}": value.grad.clone() for key, value in lora.adapter_parameters(model).items()}
    return {"loss": loss.detach().reshape(1), "logits": logits.detach(), **hidden, **gradients}


def trajectory(model, batches):
    """Losses before each step of AdamW under the rules of training.run, every step on rows of its own."""
    parameters = list(lora.adapter_parameters(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, eps=1e-8, weight_decay=0.0)
    losses = []
    for tokens, labels in batches:
        optimizer.zero_grad()
        loss, _, _ = forward(model, tokens, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def steps(folder, name):
    batches = [batch(f"{name} {step}") for step in range(STEPS)]
    return {
        "steps.tokens": torch.stack([tokens for tokens, _ in batches]),
        "steps.labels": torch.stack([labels for _, labels in batches]),
        "steps.losses": trajectory(load_adapter(folder, name), batches),
        "nf4.steps.losses": trajectory(on_nf4(folder, name), batches),
    }


def on_nf4(folder, name, values="dequantised"):
    """The adapter on a base with every linear layer but the head in NF4."""
    model = load_adapter(folder, name)
    for key, weight in model.named_parameters():
        if ".layers." in key and key.endswith("_proj.base_layer.weight"):
            # In rows of one block: bitsandbytes' CPU code begins a new block with each row, its GPU code and its format do not.
            blocks = weight.detach().reshape(-1, four_bit.BLOCK)
            weight.data = four_bit.quantise(blocks)[values].reshape(weight.shape).to(weight.dtype)
    return model


def write_expected(out):
    for name in FAMILIES:
        folder = out / "families" / name
        precision.save(lambda: numbers(folder, name), folder / "expected.safetensors")


def numbers(folder, name):
    tokens, labels = batch(name)
    right = expected(load_adapter(folder, name), tokens, labels)
    short = batch(f"{name} short", SHORT)
    with torch.no_grad():
        short_loss = forward(load_adapter(folder, name), *short)[0].reshape(1)
        plain, double = (
            forward(on_nf4(folder, name, values), tokens, labels)[0].reshape(1) for values in ("dequantised", "double.dequantised")
        )
    tensors = {"tokens": tokens, "labels": labels, "nf4.loss": plain, "nf4.double.loss": double}
    tensors |= {"short.tokens": short[0], "short.labels": short[1], "short.loss": short_loss}
    return tensors | right | steps(folder, name)


def write_ropes(out):
    folder = out / "families" / "llama"
    precision.save(lambda: ropes(folder), folder / "ropes.safetensors")
    tiny.write_json(folder / "ropes.json", ROPES)


def ropes(folder):
    """`llama` under every kind of rotation, each of which must give other logits than all the others."""
    tokens, labels = batch("llama")
    short = batch("llama short", SHORT)
    results, tensors = {"default": expected(load_adapter(folder, "llama"), tokens, labels)}, {}
    for kind, changes in ROPES.items():
        model = load_adapter(folder, "llama", changes)
        results[kind] = expected(model, tokens, labels)
        for other, result in results.items():
            if other != kind and distance(results[kind], result) <= MOVED:
                raise SystemExit(f"rotations {kind} and {other} differ by {distance(results[kind], result):.1e} only")
        kept = {key: value for key, value in results[kind].items() if not key.startswith("hidden.")}
        with torch.no_grad():
            kept["short.loss"] = forward(load_adapter(folder, "llama", changes), *short)[0].reshape(1)
        tensors |= {f"{kind}.{key}": value for key, value in kept.items()}
    return tensors


# === the mutation proof ===


def distance(wrong, right):
    return float((wrong["logits"] - right["logits"]).norm() / right["logits"].norm())


# Changes to config.json alone: a program that reads the key wrongly gives these losses, and so must ours when the key is changed.
KEYS = {
    "llama": {"other_theta": {"rope_theta": 10000.0}},
    "mistral": {"no_window": {"sliding_window": None}, "window_one_wider": {"sliding_window": 5}},
    "qwen2": {
        "no_window": {"use_sliding_window": False},
        "window_in_all_layers": {"max_window_layers": 0},
        "window_one_narrower": {"sliding_window": 4},
    },
    "qwen3": {
        "window_in_one_layer": {
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    },
    "gemma": {"other_theta": {"rope_theta": 100.0}},
    "gemma2": {
        "no_attention_cap": {"attn_logit_softcapping": None},
        "no_logit_cap": {"final_logit_softcapping": None},
        "scale_of_the_head": {"query_pre_attn_scalar": 16},
        "windows_in_the_other_layers": {"layer_types": ["full_attention", "sliding_attention"]},
        "window_one_wider": {"sliding_window": 6},
    },
    "gemma3": {
        "no_scaling": {"rope_scaling": None},
        "same_rotation_everywhere": {"rope_local_base_freq": 500.0},
        "other_pattern": {"sliding_window_pattern": 3},
        "with_a_logit_cap": {"final_logit_softcapping": 4.0},
        "scale_of_the_head": {"query_pre_attn_scalar": 16},
    },
    "phi3": {
        "long_as_short": {"original_max_position_embeddings": 32},
        "no_scaling": {"rope_scaling": None},
        "no_window": {"sliding_window": None},
    },
    "olmo2": {"other_theta": {"rope_theta": 100.0}, "other_epsilon": {"rms_norm_eps": 0.3}},
    "granite": {
        "no_embedding_multiplier": {"embedding_multiplier": 1.0},
        "no_residual_multiplier": {"residual_multiplier": 1.0},
        "no_logits_scaling": {"logits_scaling": 1.0},
        "scale_of_the_head": {"attention_multiplier": 8**-0.5},
    },
}


def replaced(ending, make):
    """Every module whose name has this ending, replaced."""

    def change(model):
        names = [name for name, _ in model.named_modules() if name.endswith(ending)]
        if not names:
            raise SystemExit(f"no module ends in {ending}")
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make(model.get_submodule(name)))

    return change


def filled(ending, value):
    """Every parameter whose name has this ending, changed."""

    def change(model):
        found = [parameter for name, parameter in model.named_parameters() if name.endswith(ending)]
        if not found:
            raise SystemExit(f"no parameter ends in {ending}")
        for parameter in found:
            parameter.data = value(parameter.data)

    return change


def activation(name):
    def change(model):
        for layer in body_of(model).layers:
            attribute = "activation_fn" if hasattr(layer.mlp, "activation_fn") else "act_fn"
            setattr(layer.mlp, attribute, ACT2FN[name])

    return change


def swapped_gate_and_up(model):
    for layer in body_of(model).layers:
        linear = layer.mlp.gate_up_proj
        linear.register_forward_hook(lambda _module, _inputs, y: torch.cat(y.chunk(2, dim=-1)[::-1], dim=-1))


def without_embedding_scale(model):
    embedding = body_of(model).embed_tokens
    embedding.embed_scale = torch.ones_like(embedding.embed_scale)


NOTHING = lambda _: torch.nn.Identity()  # noqa: E731
QUERY_KEY_NORMS = {"no_query_norm": replaced("self_attn.q_norm", NOTHING), "no_key_norm": replaced("self_attn.k_norm", NOTHING)}
GEMMA_WAYS = {
    "norm_without_one": filled("norm.weight", lambda weight: weight - 1.0),
    "silu_for_gelu": activation("silu"),
    "no_embedding_scale": without_embedding_scale,
}
POST_NORMS = {
    "no_norm_after_attention": replaced("post_attention_layernorm", NOTHING),
    "no_norm_after_feed_forward": replaced("post_feedforward_layernorm", NOTHING),
}
# Changes to the reference's modules.
MODULES = {
    "llama": {"gelu_for_silu": activation("gelu_pytorch_tanh")},
    "mistral": {"no_norm_weight": filled("layernorm.weight", torch.ones_like)},
    "qwen2": {
        f"no_{part}_bias": filled(f"self_attn.{part}_proj.base_layer.bias", torch.zeros_like) for part in ("q", "k", "v")
    },
    "qwen3": QUERY_KEY_NORMS,
    "gemma": GEMMA_WAYS,
    "gemma2": GEMMA_WAYS | POST_NORMS | {"no_norm_before_feed_forward": replaced("pre_feedforward_layernorm", NOTHING)},
    "gemma3": GEMMA_WAYS | POST_NORMS | QUERY_KEY_NORMS,
    "phi3": {"swapped_gate_and_up": swapped_gate_and_up},
    "olmo2": POST_NORMS | QUERY_KEY_NORMS,
    "granite": {"no_output_bias": filled("o_proj.base_layer.bias", torch.zeros_like)},
}


def write_mutations(out):
    precision.save_losses(lambda: mutated(out), out / "families" / "mutations.json")


def mutated(out):
    """Per family and mutation the wrong loss, and how far the logits are from the right ones."""
    report = {}
    for name in KEYS:
        folder = out / "families" / name
        tokens, labels = batch(name)

        def result(changes=None, change=None):
            model = load_adapter(folder, name, changes)
            if change is not None:
                change(model)
            with torch.no_grad():
                loss, logits, _ = forward(model, tokens, labels)
            return {"loss": loss, "logits": logits}

        right, report[name] = result(), {}
        wrong = {way: (changes, result(changes)) for way, changes in KEYS[name].items()}
        wrong |= {way: (None, result(change=change)) for way, change in MODULES[name].items()}
        for way, (changes, found) in wrong.items():
            moved = distance(found, right)
            if moved <= MOVED:
                raise SystemExit(f"{name}: mutation {way} moves the logits by {moved:.1e} only, expected more than {MOVED}")
            report[name][way] = {"keys": changes, "loss": float(found["loss"]), "logits_relative": moved}
    return report
