"""Chat rendering and tokenisation by transformers: the tiny tokenizer, and SmolLM2's out of the GGUF of the example.

Text and numbers only. The SmolLM2 part is skipped, and kept as committed, where the file is not given.
"""

import os
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

import tiny

SMOLLM2 = "FINETUNE_SMOLLM2_GGUF"  # environment variable with the path of SmolLM2-135M-Instruct.Q4_1.gguf

TEXTS = [
    "",
    " ",
    "The quick brown fox jumps over the lazy dog.",
    "In 2024 I paid 12,50 € for 3 lamps; that's it, isn't it?",
    "  two  spaces,\ttabs\tand\n\n\nnewlines \r\n at the end   ",
    "Grüße aus Köln: Übermäßig süße Äpfel",
    "Où est la bibliothèque ? À côté de l'école.",
    "Съешь же ещё этих мягких французских булок",
    "いろはにほへと 東京都 ラーメン",
    "你好，世界！今天是星期三。",
    "안녕하세요 세계",
    "مرحبا بالعالم ٤٢ سنة",
    "नमस्ते दुनिया १२३",
    "naïve café cafe\u0301 ﬁ x² ½ Ⅷ ①",
    "emoji 👩‍👩‍👧 🇩🇪 👍🏽 🤷",
    "def f(x):\n    return {'a': [x**2, 0x1F]}  # comment",
    "https://example.org/a?b=c&d=%20#e",
    "<|im_start|>user\nHi<|im_end|>\n",
    "a<|im_end|>b <|im_end|> <|endoftext|>",
    "<|im_start|x> <im_end> <|imend|>",
    "I'LL they're WE'VE don’t 'tis",
    "zero\u200bwidth \u00a0nbsp \u3000wide \u0000nul \x7f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]

CONVERSATIONS = [
    [{"role": "user", "content": "What is the warranty of the lamp?"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, how are you?"}],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Wie heißt die Hauptstadt von Österreich?"},
        {"role": "assistant", "content": "Wien"},
        {"role": "user", "content": "日本の首都は？ 👍"},
        {"role": "assistant", "content": "東京"},
    ],
    [{"role": "user", "content": "  spaces kept \n\n and <|im_end|> inside & <b>not escaped</b> \"quotes\" "}],
]

# ChatML with the marks of what the assistant says, for rendering with a mask.
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# What templates of real models use: trimmed blocks, loop controls, namespaces, filters, string methods, tojson.
FEATURES = """\
{%- set ns = namespace(turns=0) -%}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- continue %}
    {%- endif %}
    {%- set ns.turns = ns.turns + 1 %}
    {% if loop.index0 > 8 %}
      {%- break %}
    {% endif %}
[{{ ns.turns }}/{{ messages | length }} {{ message['role'].upper() }}]: {{ message.content | trim }}
{{ {'ü': message.content.strip().split(' ')[0], 'n': [1, 2.5, true, none]} | tojson }}
{%- endfor %}
{%- if messages[-1]['role'] == 'user' and messages[::-1][0].content.startswith('  ') %}
<spaces>
{%- endif %}
{%- if add_generation_prompt %}
{{- '\\n' + eos_token + (messages | selectattr('role', 'equalto', 'user') | list | length | string) }}
{%- endif %}
"""


def renderings(tokenizer, template=None):
    rows = []
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            arguments = {"add_generation_prompt": prompt, "chat_template": template}
            text = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **arguments)
            if ids != tokenizer.encode(text, add_special_tokens=False):
                raise SystemExit("a rendered chat tokenises otherwise than its text")
            rows.append({"messages": messages, "add_generation_prompt": prompt, "text": text, "ids": ids})
    return rows


def with_mask(tokenizer):
    """1 for the tokens that the template marks as the assistant's."""
    rows = []
    for messages in CONVERSATIONS[1:3]:
        made = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, chat_template=MARKED
        )
        rows.append({"messages": messages, "ids": made["input_ids"], "assistant_mask": made["assistant_masks"]})
    return rows


def texts(tokenizer):
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        rows.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    return rows


def write_tiny(out):
    tokenizer = AutoTokenizer.from_pretrained(out / "tiny-llama")
    report = {
        "texts": texts(tokenizer),
        "chats": renderings(tokenizer),
        "marked_template": MARKED,
        "marked_chats": with_mask(tokenizer),
        "features_template": FEATURES,
        "features_chats": renderings(tokenizer, FEATURES),
    }
    tiny.write_json(out / "expected" / "chat-tiny-llama.json", report)


def write_smollm2(out):
    target = out / "expected" / "chat-smollm2.json"
    path = os.environ.get(SMOLLM2)
    if not path:
        committed = Path(__file__).resolve().parents[2] / "trainer/tests/fixtures/expected" / target.name
        print(f"{SMOLLM2} is not set: {target.name} is kept as it is")
        target.write_bytes(committed.read_bytes())
        return
    tokenizer = AutoTokenizer.from_pretrained(Path(path).parent, gguf_file=Path(path).name)
    plain = [row["ids"] for row in texts(tokenizer)]
    # transformers reads no `tokenizer.ggml.pre`. SmolLM2's own tokenizer and llama.cpp's `smollm` split digits singly.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    rows = texts(tokenizer)
    for row, ids in zip(rows, plain):
        row["same_without_digit_splitting"] = row["ids"] == ids
    if all(row["same_without_digit_splitting"] for row in rows):
        raise SystemExit("no text shows whether digits are split")
    tiny.write_json(target, {"texts": rows, "chats": renderings(tokenizer)})
