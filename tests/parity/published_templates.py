"""Renders conversations through the templates of published models, which trl carries, with our trainer and with transformers: the tokens, and
for templates that mark what the assistant says, the mask, must be the same; what one refuses, the other must refuse.

    python tests/parity/published_templates.py TRAINER BASE

TRAINER is the binary, BASE the folder of a base with a byte-level tokenizer. The trainer finds its libtorch by TRAINER_LIBRARY_PATH, since the
reference has another one. The templates stay where pip has put them.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import transformers
import trl
from safetensors.torch import load_file
from transformers import AutoTokenizer

# Models that are no text model, or whose templates take rows of another kind.
OTHERS = ("diffusion", "idefics3", "llava", "smolvlm", "_vl")
WEATHER = {"name": "weather", "description": "Tells the weather.", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}}
TOOLS = [{"type": "function", "function": WEATHER}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Köln"}}}
CONVERSATIONS = {
    "one turn": {"messages": [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Grüße & <b>hello</b>!"}]},
    "system, two turns": {
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "Capital of Austria?"},
            {"role": "assistant", "content": "Wien"},
            {"role": "user", "content": "日本の首都は？ 👍"},
            {"role": "assistant", "content": "東京"},
        ]
    },
    "spaces": {"messages": [{"role": "user", "content": "  two  \n\n lines "}, {"role": "assistant", "content": " \n kept? \n"}]},
    "tools": {
        "messages": [
            {"role": "user", "content": "How is the weather in Köln?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "weather", "content": "rain"},
            {"role": "assistant", "content": "It rains."},
        ],
        "tools": TOOLS,
    },
}


def ours(trainer, folder, base, row, marks):
    """Token ids and loss mask, or the refusal. Without marks in the template all tokens carry loss."""
    (folder / "rows.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n")
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "templates"},
        "spec": {
            "baseModel": {"uri": f"file://{base}/"},
            "dataset": {"train": [{"uri": f"file://{folder}/rows.jsonl"}], "format": "Messages", "maxSequenceLength": 8192, "lossOn": "Assistant" if marks else "All"},
            "method": {"lora": {}},
        },
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    command = [trainer, "prepare", "--file", folder / "job.yaml", "--work", work, "--cache", folder / "cache"]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        return None, ended.stderr.strip().splitlines()[-1]
    tensors = load_file(work / "scratch/prepared/tokens.safetensors")
    return (tensors["train.tokens"].tolist(), tensors["train.loss"].tolist()), None


def theirs(base, template, row, marks):
    tokenizer = AutoTokenizer.from_pretrained(base)
    try:
        found = tokenizer.apply_chat_template(
            row["messages"], tools=row.get("tools"), chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=marks
        )
    except Exception as error:  # noqa: BLE001: a template refuses in its own words, or fails on what it does not know
        return None, str(error)
    return (found["input_ids"], found["assistant_masks"] if marks else None), None


def main(trainer, base):
    transformers.utils.logging.set_verbosity_error()
    templates = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    compared, refused, faults = 0, 0, []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy = folder / "base"
        shutil.copytree(base, copy)
        config = json.loads((copy / "config.json").read_text()) | {"max_position_embeddings": 8192}
        (copy / "config.json").write_text(json.dumps(config))
        for path in templates:
            if any(part in path.stem for part in OTHERS):
                continue
            template = path.read_text()
            marks = "{% generation" in template or "{%- generation" in template
            (copy / "chat_template.jinja").write_text(template)
            for name, row in CONVERSATIONS.items():
                case = f"{path.stem}, {name}"
                (reference, why), (found, why_not) = theirs(copy, template, row, marks), ours(trainer, folder, copy, row, marks)
                if reference is None or found is None:
                    refused += 1
                    if (reference is None) != (found is None):
                        faults.append(f"{case}: ours {why_not or 'renders'}; transformers {why or 'renders'}")
                    continue
                compared += 1
                if found[0] != list(reference[0]):
                    at = next((i for i, pair in enumerate(zip(found[0], reference[0])) if pair[0] != pair[1]), "the end")
                    tokenizer = AutoTokenizer.from_pretrained(copy)
                    text = [tokenizer.decode(ids) for ids in (found[0], reference[0])]
                    faults.append(f"{case}: tokens differ from {at}:\n  {text[0]!r}\n  {text[1]!r}")
                elif reference[1] is not None and [int(m) for m in found[1]] != list(reference[1]):
                    faults.append(f"{case}: masks differ:\n  {found[1]}\n  {reference[1]}")
    for fault in faults:
        print(fault)
    print(f"{compared} renderings compared, {refused} refused, {len(faults)} faults")
    return 1 if faults or compared < 100 else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
