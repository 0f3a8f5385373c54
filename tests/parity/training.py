"""Short training runs with torch's AdamW under the rules of the transformers Trainer, and its learning-rate schedules."""

import torch
from transformers import LlamaConfig, get_scheduler
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import lora
import precision
import tiny

STEPS, LEARNING_RATE, CLIP = 6, 1e-2, 1.0
SCHEDULES = [("constant", 0), ("constant_with_warmup", 3), ("linear", 0), ("linear", 3), ("cosine", 0), ("cosine", 3)]
TOTALS = [10, 25]
ROPE = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 4096},
}


def run(model, parameters, learning_rate=LEARNING_RATE, weight_decay=0.0, clip=CLIP, betas=(0.9, 0.999)):
    """Losses before each step, gradient norms before clipping; the parameters change in place."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=betas, eps=1e-8, weight_decay=weight_decay)
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss, _, _ = lora.forward(model, *lora.batch(f"trajectory {step}"))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, clip))
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), torch.stack(norms).detach()


def write_trajectories(out):
    right = precision.save(lambda: trajectories(out), out / "expected" / "trajectory-tiny-llama.safetensors", half=True)
    precision.save_losses(lambda: wrong(out, right), out / "expected" / "trajectory-mutations.json")


def trajectories(out):
    batches = [lora.batch(f"trajectory {step}") for step in range(STEPS)]
    tensors = {"tokens": torch.stack([b[0] for b in batches]), "labels": torch.stack([b[1] for b in batches])}
    for prefix, weight_decay in (("", 0.0), ("decay.", 0.1)):
        model = lora.load_adapter(out, "tiny-llama")
        parameters = lora.adapter_parameters(model)
        losses, norms = run(model, list(parameters.values()), weight_decay=weight_decay)
        tensors |= {f"{prefix}losses": losses, f"{prefix}grad_norms": norms}
        tensors |= {f"{prefix}final.{key}": value.detach().clone() for key, value in parameters.items()}
    model = tiny.load(out, "tiny-llama")
    losses, norms = run(model, list(model.parameters()), learning_rate=1e-3)
    return tensors | {"full.losses": losses, "full.grad_norms": norms}


def wrong(out, right):
    """Wrong training rules must show in the losses or in the final adapter, or the trajectory proves nothing."""
    final = {key.removeprefix("final."): value for key, value in right.items() if key.startswith("final.")}
    ways = {
        "no_clipping": {"clip": float("inf")},
        "other_beta1": {"betas": (0.8, 0.999)},
        "other_beta2": {"betas": (0.9, 0.99)},
        "weight_decay": {"weight_decay": 0.1},
    }
    report = {}
    for name, arguments in ways.items():
        model = lora.load_adapter(out, "tiny-llama")
        parameters = lora.adapter_parameters(model)
        losses, _ = run(model, list(parameters.values()), **arguments)
        moved = float(((losses - right["losses"]).abs() / right["losses"]).max())
        distances = [float((parameters[key].detach() - final[key]).abs().max() / final[key].abs().max()) for key in final]
        if max(distances) <= 4e-4:
            raise SystemExit(f"training with {name} moves the adapter by {max(distances):.1e} only, expected more than 4e-4")
        report[name] = {"losses": losses.tolist(), "losses_relative": moved, "final_relative": max(distances)}
    return report


def write_schedules(out):
    """The factor on the learning rate that optimiser step i (from 0) uses."""
    report = []
    for total in TOTALS:
        for name, warmup in SCHEDULES:
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
            scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
            factors = []
            for _ in range(total):
                factors.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
            report.append({"schedule": name, "total": total, "warmup": warmup, "factors": factors})
    tiny.write_json(out / "expected" / "schedules.json", report)


def write_rope(out):
    """Inverse frequencies, in double precision, and the factor on cos and sin, head size 64."""
    with precision.double():
        report = rotations()
    tiny.write_json(out / "expected" / "rope.json", report)


def rotations():
    report = []
    for name, parameters in ROPE.items():
        config = LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=16384, rope_parameters=parameters)
        if name == "default":
            frequencies, factor = 10000.0 ** -(torch.arange(0, 64, 2).double() / 64), 1.0
        else:
            frequencies, factor = ROPE_INIT_FUNCTIONS[name](config, "cpu")
        report.append({"parameters": parameters, "head_dim": 64, "max_position_embeddings": 16384, "factor": float(factor), "inverse_frequencies": frequencies.tolist()})
    return report
