"""Conversations as data: templates with the features of each model family's, tools, masks, and every tokenizer kind.

The templates in templates/ are this project's own; each uses the Jinja that its family's published template uses. They
stand in them with `{% generation %}` marks, so that transformers itself says which tokens the assistant speaks. The
same template without the marks must render the same text: whoever finds the turns without marks must find these.
"""

import json
import re
from pathlib import Path

import jinja2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import chat
import tiny

TEMPLATES = Path(__file__).resolve().parent / "templates"
MARKS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")

# The tokens that each family's template prints, with the start and the end of a text. `None`: there is none.
FAMILIES = {
    "llama3": ("byte-level", "<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"], True),
    "qwen2.5": ("byte-level", None, "<|im_end|>", ["<|im_start|>"], True),
    "qwen3": ("byte-level", None, "<|im_end|>", ["<|im_start|>"], True),
    "mistral": (
        "byte-fallback",
        "<s>",
        "</s>",
        ["[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
        + ["[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"],
        True,
    ),
    "gemma": ("byte-fallback-split", "<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"], False),
    "phi3": ("unigram", "<s>", "<|endoftext|>", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], False),
    "granite": ("byte-level", None, "<|end_of_text|>", ["<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"], True),
    "olmo2": ("byte-level", "<|endoftext|>", "<|endoftext|>", [], False),
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "stock",
            "description": "Pieces of an article, such as \"Lampe für Köln\", in stock & on order",
            "parameters": {
                "type": "object",
                "properties": {
                    "article": {"type": "string", "description": "Its name"},
                    "at_least": {"type": "number", "default": 1.5},
                    "city": {"type": "string", "enum": ["Köln", "東京"]},
                },
                "required": ["article"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}},
    },
]


def call(name, arguments, number):
    return {"id": f"call0000{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


# `zebra` before `apple`: keys keep their order.
SEARCH = {"zebra": 1e16, "article": "Lampe für <Köln>", "apple": [1, 2.0, None, True]}
ONE_CALL = {
    "messages": [
        {"role": "user", "content": "How many lamps are there? "},
        {"role": "assistant", "tool_calls": [call("stock", SEARCH, 1)]},
        {"role": "tool", "name": "stock", "tool_call_id": "call00001", "content": "{\"pieces\": 7}"},
        {"role": "assistant", "content": "Seven."},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "You are welcome."},
    ],
    "tools": TOOLS,
}
# Arguments may be JSON in a text, as OpenAI writes them.
TWO_CALLS = {
    "messages": [
        {"role": "user", "content": "Lamps, and the time?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [call("stock", "{\"article\": \"lamp\", \"at_least\": 0.00001}", 1), call("now", {}, 2)],
        },
        {"role": "tool", "tool_call_id": "call00001", "content": "7"},
        {"role": "tool", "tool_call_id": "call00002", "content": "12:00"},
        {"role": "assistant", "content": "Seven, at noon. 👍"},
    ],
    "tools": TOOLS,
}
PLAIN = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, how are you?"}]},
    {
        "messages": [
            {"role": "system", "content": "You answer in one word."},
            {"role": "user", "content": "Wie heißt die Hauptstadt von Österreich?"},
            {"role": "assistant", "content": "Wien"},
            {"role": "user", "content": "日本の首都は？ 👍"},
            {"role": "assistant", "content": "東京"},
        ]
    },
    # The same words on both sides, and white space that some templates trim.
    {
        "messages": [
            {"role": "user", "content": "no"},
            {"role": "assistant", "content": "no"},
            {"role": "user", "content": "  no no "},
            {"role": "assistant", "content": " no no\n"},
            {"role": "user", "content": "assistant"},
            {"role": "assistant", "content": "assistant"},
        ]
    },
]
# What only a template with thoughts prints.
THOUGHTS = [
    {
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "<think>\ntwo and two\n</think>\n\n4"},
            {"role": "user", "content": "And 3+3?"},
            {"role": "assistant", "reasoning_content": "three and three", "content": "6"},
        ]
    },
    {
        "messages": TWO_CALLS["messages"][:1]
        + [TWO_CALLS["messages"][1] | {"reasoning_content": "I need both"}]
        + TWO_CALLS["messages"][2:],
        "tools": TOOLS,
    },
]
REFUSED = {
    "llama3": (TWO_CALLS, "One call a turn, please"),
    "mistral": ({"messages": PLAIN[0]["messages"][1:] + PLAIN[0]["messages"]}, "Turns must alternate"),
    "gemma": ({"messages": PLAIN[0]["messages"] + PLAIN[0]["messages"][1:]}, "User and model must take turns"),
}


def rows_of(family):
    rows = list(PLAIN)
    if FAMILIES[family][4]:
        rows += [ONE_CALL] + ([] if family == "llama3" else [TWO_CALLS])
    return rows + (THOUGHTS if family == "qwen3" else [])


def as_given(row, template):
    """What the template gets: arguments as an object unless it takes a text as it is, a message's content always there."""
    messages = json.loads(json.dumps(row["messages"]))
    for message in messages:
        message.setdefault("content", None)
        for each in message.get("tool_calls", []):
            if isinstance(each["function"]["arguments"], str) and "arguments is string" not in template:
                each["function"]["arguments"] = json.loads(each["function"]["arguments"])
    return messages, row.get("tools")


def vocabulary_texts():
    texts = chat.TEXTS + tiny.CORPUS
    return texts + [message["content"] for row in PLAIN for message in row["messages"]]


def byte_tokens():
    return [f"<0x{byte:02X}>" for byte in range(256)]


def special_tokens(kind):
    tokens = ["<unk>"]
    for of, bos, eos, more, _ in FAMILIES.values():
        if of == kind:
            tokens += [token for token in [bos, eos, *more] if token and token not in tokens]
    return tokens


def byte_level(special):
    tokenizer = Tokenizer(models.BPE())
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(pattern=Regex(words + rest), behavior="isolated")
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(vocabulary_texts(), trainer)
    return tokenizer


def byte_fallback(special, split):
    """As SentencePiece's BPE: spaces are `▁`, what has no piece falls back to bytes."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    if split:
        learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    learner.train_from_iterator(
        tiny.CORPUS + [text for text in vocabulary_texts() if text.isascii()],
        trainers.BpeTrainer(vocab_size=220, special_tokens=["<unk>"], max_token_length=8, show_progress=False),
    )
    learnt = json.loads(learner.to_str())["model"]
    names = special + byte_tokens()
    names += [name for name, _ in sorted(learnt["vocab"].items(), key=lambda item: item[1]) if name not in names]
    vocabulary = {name: number for number, name in enumerate(names)}
    merges = [tuple(merge) for merge in learnt["merges"]]
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    space = normalizers.Replace(" ", "▁")
    if split:
        tokenizer.normalizer = space
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    return tokenizer


def unigram(special):
    """As SentencePiece's unigram. The scores are made up from lengths, so that every machine makes the same."""
    pieces = [(token, 0.0) for token in special] + [(token, -12.0) for token in byte_tokens()]
    words = sorted({piece for text in tiny.CORPUS for word in text.split() for piece in (word, "▁" + word)})
    letters = {letter for text in tiny.CORPUS for letter in text if not letter.isspace()}
    letters = sorted(letters | set("▁éüöä日本東京"))
    pairs = sorted({word[at : at + 2] for word in words for at in range(len(word) - 1)} - set(words) - set(letters))
    pieces += [(letter, -8.0 - 0.01 * number) for number, letter in enumerate(letters)]
    pieces += [(pair, -9.0 - 0.01 * number) for number, pair in enumerate(pairs)]
    pieces += [(word, -7.5 - 0.01 * number) for number, word in enumerate(words) if word not in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    spaces = {"replacement": "▁", "prepend_scheme": "first"}
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**spaces)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(**spaces)])
    return tokenizer


KINDS = {
    "byte-level": byte_level,
    "byte-fallback": lambda special: byte_fallback(special, split=False),
    "byte-fallback-split": lambda special: byte_fallback(special, split=True),
    "unigram": unigram,
}


def write_tokenizers(out):
    for kind, make in KINDS.items():
        special = special_tokens(kind)
        tokenizer = make(special)
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
        folder = out / "tokenizers" / kind
        folder.mkdir(parents=True)
        value = json.loads(tokenizer.to_str())
        (folder / "tokenizer.json").write_text(json.dumps(value, ensure_ascii=False) + "\n")


def tokenizer_of(out, kind, bos=None, eos=None):
    return PreTrainedTokenizerFast(
        tokenizer_file=str(out / "tokenizers" / kind / "tokenizer.json"),
        bos_token=bos,
        eos_token=eos,
        clean_up_tokenization_spaces=False,
    )


def write_texts(out):
    texts = {}
    for kind in KINDS:
        texts[kind] = chat.texts(tokenizer_of(out, kind))
        # `tokenizers` itself is asked, since transformers tidies some texts after decoding.
        plain = Tokenizer.from_file(str(out / "tokenizers" / kind / "tokenizer.json"))
        for row in texts[kind]:
            row["decoded"] = plain.decode(row["ids"], skip_special_tokens=False)
    different = {kind: [row["ids"] for row in rows] for kind, rows in texts.items()}
    if len({json.dumps(ids) for ids in different.values()}) != len(KINDS):
        raise SystemExit("two kinds of tokenizer give the same ids")
    write_lines(out / "expected" / "tokenizer-kinds.json", texts)


def write_templates(out):
    report = {}
    for family, (kind, bos, eos, _, _) in FAMILIES.items():
        tokenizer = tokenizer_of(out, kind, bos, eos)
        marked = (TEMPLATES / f"{family}.jinja").read_text().rstrip("\n")
        plain = MARKS.sub("", marked)
        if plain == marked:
            raise SystemExit(f"{family}: the template has no marks")
        cases = [case(tokenizer, family, marked, plain, row) for row in rows_of(family)]
        report[family] = {"kind": kind, "bos": bos, "eos": eos, "marked": marked, "plain": plain, "cases": cases}
        if family in REFUSED:
            row, words = REFUSED[family]
            refuse(tokenizer, plain, row, words)
            report[family]["refused"] = {"row": json.dumps(row, ensure_ascii=False), "words": words}
    write_lines(out / "expected" / "templates.json", report)


def case(tokenizer, family, marked, plain, row):
    messages, tools = as_given(row, plain)

    def render(template, messages=messages, **more):
        return tokenizer.apply_chat_template(messages, tools=tools, chat_template=template, **more)

    made = render(marked, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    text = render(plain, tokenize=False)
    if text != render(marked, tokenize=False):
        raise SystemExit(f"{family}: the marks change the text")
    mask = made["assistant_masks"]
    if not 0 < sum(mask) < len(mask) or len(mask) != len(made["input_ids"]):
        raise SystemExit(f"{family}: the mask shows nothing")
    asked = [at for at, message in enumerate(messages) if message["role"] == "assistant"][-1]
    return {
        "row": json.dumps(row, ensure_ascii=False),
        "text": text,
        "prompt": render(plain, messages[:asked], tokenize=False, add_generation_prompt=True),
        "ids": made["input_ids"],
        "mask": "".join(map(str, mask)),
    }


def refuse(tokenizer, template, row, words):
    messages, tools = as_given(row, template)
    try:
        tokenizer.apply_chat_template(messages, tools=tools, chat_template=template, tokenize=False)
    except jinja2.TemplateError as error:
        if words in str(error):
            return
        raise
    raise SystemExit(f"it should refuse: {words}")


def write_lines(path, value):
    """One list of ids a line: indented by number, they would fill pages."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+(\d[\d,\s]*)\]", lambda found: "[" + re.sub(r"\s+", "", found[1]) + "]", text)
    path.write_text(text + "\n")
