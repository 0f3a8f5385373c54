"""Direct preference optimisation (Rafailov et al., 2023, equation 7) with transformers + peft: the loss of pairs, its gradient, and steps.

Written out here on torch's own log-probabilities, as TRL's DPOTrainer has it for loss_type "sigmoid": sums over the tokens of
the answer, the mean over pairs, the reference being the same model without the adapter.
"""

import torch

import lora
import tiny

BASE, PAIRS, LENGTH, BETA = "tiny-llama", 3, 14, 0.3
STEPS, LEARNING_RATE, CLIP = 4, 1e-2, 1.0


def pairs(name):
    """Rows chosen, rejected, chosen, rejected, …: the two of a pair begin with the same prompt. Label -100: prompt or padding."""
    random = tiny.generator("preference", name)
    rows = []
    for pair in range(PAIRS):
        prompt = random.integers(3, tiny.VOCABULARY, 3 + pair)
        for answer in range(2):
            answer = random.integers(3, tiny.VOCABULARY, 4 + (pair + 2 * answer) % 5)
            padding = LENGTH - len(prompt) - len(answer)
            tokens = [*prompt, *answer, *[tiny.END_OF_TURN] * padding]
            labels = [*[lora.IGNORED] * len(prompt), *answer, *[lora.IGNORED] * padding]
            rows.append((tokens, labels))
    return tuple(torch.tensor([row[part] for row in rows], dtype=torch.int64) for part in range(2))


def log_probabilities(model, tokens, labels):
    """The sum over the tokens of each row's answer."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].log_softmax(-1)
    targets = labels[:, 1:]
    picked = logits.gather(2, targets.clamp(min=0)[:, :, None])[:, :, 0]
    return (picked * (targets != lora.IGNORED)).sum(1)


def loss_of(model, tokens, labels, beta=BETA, reference=True, swapped=False, by_length=False):
    policy = log_probabilities(model, tokens, labels)
    with torch.no_grad(), model.disable_adapter():
        base = log_probabilities(model, tokens, labels) if reference else torch.zeros_like(policy)
    ratios = policy - base
    if by_length:
        ratios = ratios / (labels[:, 1:] != lora.IGNORED).sum(1)
    chosen, rejected = ratios[0::2], ratios[1::2]
    if swapped:
        chosen, rejected = rejected, chosen
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected)).mean(), policy, base


def write_expected(out):
    tokens, labels = pairs("one")
    model = lora.load_adapter(out, BASE)
    parameters = lora.adapter_parameters(model)
    loss, policy, reference = loss_of(model, tokens, labels)
    loss.backward()
    tensors = {
        "tokens": tokens,
        "labels": labels,
        "loss": loss.detach().reshape(1),
        "policy": policy.detach(),
        "reference": reference,
        **{f"grad.{key}": value.grad.clone() for key, value in parameters.items()},
    }
    model = lora.load_adapter(out, BASE)
    trained = list(lora.adapter_parameters(model).values())
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    batches, losses = [pairs(f"step {step}") for step in range(STEPS)], []
    for batch in batches:
        optimizer.zero_grad()
        loss, _, _ = loss_of(model, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        losses.append(loss.detach())
    tensors["trajectory.tokens"] = torch.stack([b[0] for b in batches])
    tensors["trajectory.labels"] = torch.stack([b[1] for b in batches])
    tensors["trajectory.losses"] = torch.stack(losses)
    lora.save(tensors, out / "expected" / "preference-tiny-llama.safetensors")
    prove(out, tensors)


def prove(out, right):
    """Wrong losses must differ, or the fixture proves nothing."""
    model = lora.load_adapter(out, BASE)
    wrong = {
        "no_reference": {"reference": False},
        "rejected_for_chosen": {"swapped": True},
        "mean_over_tokens": {"by_length": True},
        "other_beta": {"beta": 1.0},
    }
    report = {"loss": float(right["loss"]), "mutations": {}}
    for name, arguments in wrong.items():
        loss, _, _ = loss_of(model, right["tokens"], right["labels"], **arguments)
        moved = abs(float(loss.detach()) / report["loss"] - 1)
        if moved <= 1e-2:
            raise SystemExit(f"preference: {name} moves the loss by {moved:.1e} only, expected more than 1e-2")
        report["mutations"][name] = {"loss": float(loss.detach()), "relative": moved}
    tiny.write_json(out / "expected" / "preference-mutations.json", report)
