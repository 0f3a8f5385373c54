"""Direct preference optimisation (Rafailov et al., 2023, equation 7) as TRL's DPOTrainer computes it: the loss of pairs, its
gradient, and steps, for both of its references: the base without the adapter, and the adapter as training found it.

The loss is also written out on torch's own log-probabilities: TRL must agree with that, which can then be made wrong.
"""

import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

import lora
import precision
import tiny

BASE, PAIRS, LENGTH, BETA = "tiny-llama", 3, 14, 0.3
STEPS, LEARNING_RATE, CLIP = 4, 1e-2, 1.0
# What TRL and the loss written out here may differ by.
AGREED = 1e-6


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


class Trainer(DPOTrainer):
    """TRL's trainer on rows that are tokens already, taken in order, with the loss of every step kept."""

    def __init__(self, **arguments):
        self.losses = []
        super().__init__(**arguments)

    def _prepare_dataset(self, dataset, *_arguments):
        return dataset

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(dataset)

    def compute_loss(self, *arguments, **keywords):
        loss = super().compute_loss(*arguments, **keywords)
        self.losses.append(loss.detach())
        return loss


def rows_of(batches):
    """TRL's columns for the pairs of these batches."""
    rows = []
    for tokens, labels in batches:
        for chosen, rejected in zip(range(0, len(tokens), 2), range(1, len(tokens), 2)):
            prompt = int((labels[chosen] != lora.IGNORED).nonzero()[0])
            answer = lambda row: tokens[row][labels[row] != lora.IGNORED].tolist()  # noqa: E731
            rows.append({"prompt_ids": tokens[chosen][:prompt].tolist(), "chosen_ids": answer(chosen), "rejected_ids": answer(rejected)})
    return Dataset.from_list(rows)


def trainer(out, batches, folder, against_the_start=False):
    """The adapter on its base under TRL. A model that comes with an adapter is trained against that; one that TRL puts the
    adapter on, against the base, and the adapter's values are put in then.
    """
    arguments = DPOConfig(
        output_dir=folder,
        beta=BETA,
        loss_type=["sigmoid"],
        max_steps=STEPS,
        per_device_train_batch_size=PAIRS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=CLIP,
        bf16=False,
        activation_checkpointing=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    common = {
        "args": arguments,
        "train_dataset": rows_of(batches),
        "processing_class": PreTrainedTokenizerFast.from_pretrained(out / BASE),
    }
    start = lora.load_adapter(out, BASE)
    if against_the_start:
        return Trainer(model=start, **common)
    config = LoraConfig.from_pretrained(out / "adapters" / BASE)
    config.inference_mode = False
    made = Trainer(model=tiny.load(out, BASE), peft_config=config, **common)
    values = lora.adapter_parameters(start)
    with torch.no_grad():
        for key, value in lora.adapter_parameters(made.model).items():
            value.copy_(values[key])
    return made


def interleaved(chosen, rejected):
    return torch.stack((chosen, rejected), dim=1).flatten()


def one_batch(out, tokens, labels):
    """Loss, gradient and log-probabilities of answers by TRL, which must be those of the loss written out here."""
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(out, [(tokens, labels)], folder)
        batch = made.data_collator(list(made.train_dataset))
        model = made.model.train()
        loss = made.compute_loss(model, batch)
        loss.backward()
        parameters = lora.adapter_parameters(model)
        reference = interleaved(*made.compute_ref_log_probs(model, batch))
        masked = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, lora.IGNORED)
        with torch.no_grad():
            picked = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=masked, use_cache=False, fused_lm_head=True)
        policy = interleaved(*picked.log_probs.sum(1).chunk(2))
        gradients = {f"grad.{key}": value.grad.clone() for key, value in parameters.items()}
    written_out = loss_of(lora.load_adapter(out, BASE), tokens, labels)
    for name, trl, ours in zip(("loss", "policy", "reference"), (loss, policy, reference), written_out):
        distance = float(((trl - ours).abs() / ours.abs()).max().detach())
        if not distance <= AGREED:
            raise SystemExit(f"preference: {name} of TRL is off by {distance:.1e} from the formula, expected at most {AGREED:.0e}")
    return {"loss": loss.detach().reshape(1), "policy": policy, "reference": reference, **gradients}


def trajectory(out, batches, against_the_start=False):
    """The loss before each step."""
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(out, batches, folder, against_the_start)
        made.train()
        return torch.stack(made.losses)


def write_expected(out):
    right = precision.save(lambda: numbers(out), out / "expected" / "preference-tiny-llama.safetensors")
    precision.save_losses(lambda: wrong(out, right), out / "expected" / "preference-mutations.json")


def numbers(out):
    tokens, labels = pairs("one")
    tensors = {"tokens": tokens, "labels": labels, **one_batch(out, tokens, labels)}
    batches = [pairs(f"step {step}") for step in range(STEPS)]
    tensors["trajectory.tokens"] = torch.stack([b[0] for b in batches])
    tensors["trajectory.labels"] = torch.stack([b[1] for b in batches])
    tensors["trajectory.losses"] = trajectory(out, batches)
    tensors["trajectory.start.losses"] = trajectory(out, batches, against_the_start=True)
    return tensors


def wrong(out, right):
    """Wrong losses must differ, or the fixture proves nothing."""
    model = lora.load_adapter(out, BASE)
    ways = {
        "no_reference": {"reference": False},
        "rejected_for_chosen": {"swapped": True},
        "mean_over_tokens": {"by_length": True},
        "other_beta": {"beta": 1.0},
    }
    report = {"loss": float(right["loss"]), "mutations": {}}
    for name, arguments in ways.items():
        loss, _, _ = loss_of(model, right["tokens"], right["labels"], **arguments)
        moved = abs(float(loss.detach()) / report["loss"] - 1)
        if moved <= 1e-2:
            raise SystemExit(f"preference: {name} moves the loss by {moved:.1e} only, expected more than 1e-2")
        report["mutations"][name] = {"loss": float(loss.detach()), "relative": moved}
    return report
