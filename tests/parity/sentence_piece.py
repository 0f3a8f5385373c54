"""Tokenizers that are a `tokenizer.model` alone: small SentencePiece models of every kind, the files beside them, and the ids that
transformers' conversion and SentencePiece itself give.

transformers 5 converts such a folder by its `tokenizer_class`. Where it has a class for the rules that a model asks for, its ids
are those to reach; where it has none (a unigram model in a decoder) or loses the rules, SentencePiece's are. Both are asked, and
must agree on every text without special tokens at whose edges no space stands.
"""

import io
import json

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer

import chat
import data
import tiny

# Texts that are no words: tokens that models add, their names in other spelling, spaces, bytes.
TEXTS = [
    "",
    " ",
    "   ",
    "a",
    "Grüße aus Köln, Übermut tut selten gut.",
    "Γειά σου Κόσμε · Привет, мир · שלום עולם · مرحبا بالعالم",
    "नमस्ते दुनिया · 你好，世界 · こんにちは世界 · 안녕하세요 세계",
    "👍 👩‍👩‍👧‍👦 🇩🇪 e\u0301 ﬁne Å",
    "two  spaces,   three    four",
    " a space before, one behind ",
    "tab\tand\nlines\n\n\r\nend",
    "12345 3.14 0x1F <0xF1> <0xFF>",
    "<s>begin</s> and <unk> <pad> [INST] ask [/INST]",
    "a<|user|>b <|user|> c<|extra|>d",
    "▁ lower one eighth block ▁▁",
    "\u200b\ufeff zero width \u00a0 no-break",
    "def f(x):\n    return x  # ä\n",
]
BPE = {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True}
TOKENS = {"control_symbols": ["[INST]", "[/INST]"], "user_defined_symbols": ["<|user|>", "  "]}
FULLWIDTH = "".join(f"{ord('Ａ') + at:X}\t{ord('A') + at:X}\n" for at in range(26)) + "A0\t20\n9\t20\nA\t20\nFB01\t66 69\n200B\t\n"

FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
END = {"__type": "AddedToken", "content": "</s>", **FLAGS}

# name: (how the model is trained, tokenizer_config.json, other files, whether transformers has its rules)
MODELS = {
    "llama": (
        BPE | TOKENS | {"byte_fallback": True},
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": END},
        {"added_tokens.json": {"<|extra|>": 700}, "special_tokens_map.json": {"pad_token": "<|extra|>"}},
        True,
    ),
    "llama-legacy": (
        BPE | {"byte_fallback": True},
        {"tokenizer_class": "LlamaTokenizer", "legacy": True, "pad_token": "<pad>"},
        {},
        True,
    ),
    "gemma": (
        BPE
        | {"byte_fallback": True, "add_dummy_prefix": False, "allow_whitespace_only_pieces": True, "user_defined_symbols": ["<|user|>"]}
        | {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "bos_piece": "<bos>", "eos_piece": "<eos>"},
        {
            "tokenizer_class": "GemmaTokenizer",
            "added_tokens_decoder": {
                "4": {"content": "<|user|>", "special": True},
                "700": {"content": "<mask>", "special": True},
                "701": {"content": "<|extra|>", "special": False, "normalized": False, "lstrip": True, "rstrip": True},
            },
        },
        {},
        True,
    ),
    "bpe-unknown": (BPE, {}, {}, False),
    "unigram": (
        {"model_type": "unigram", "byte_fallback": True, "normalization_rule_name": "identity", "user_defined_symbols": ["<|user|>"]},
        {"add_bos_token": True},
        {},
        False,
    ),
    "unigram-characters": ({"model_type": "unigram", "character_coverage": 0.99, "rules": FULLWIDTH}, {}, {}, False),
}


def train(settings, scratch):
    settings = dict(settings)
    if rules := settings.pop("rules", None):
        path = scratch / "rules.tsv"
        path.write_text(rules)
        settings["normalization_rule_tsv"] = str(path)
    made = io.BytesIO()
    texts = data.vocabulary_texts() + TEXTS[8:10]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.splitlines() if line.strip()]),
        model_writer=made,
        vocab_size=700,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **({"character_coverage": 0.99} | settings),
    )
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(made.getvalue())
    # The path of a file that is gone: the map that was made of it is in the model.
    model.normalizer_spec.ClearField("normalization_rule_tsv")
    model.denormalizer_spec.ClearField("normalization_rule_tsv")
    return model.SerializeToString(deterministic=True)


def write_models(out):
    report = {}
    for name, (settings, config, more, converted) in MODELS.items():
        folder = out / "sentencepiece" / name
        folder.mkdir(parents=True)
        model = train(settings, folder)
        for rules in folder.glob("*.tsv"):
            rules.unlink()
        (folder / "tokenizer.model").write_bytes(model)
        for file, content in {"tokenizer_config.json": config, **more}.items():
            (folder / file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        itself = sentencepiece.SentencePieceProcessor(model_proto=model)
        reference = load(folder) if converted else None
        report[name] = [case(name, text, itself, reference) for text in TEXTS + chat.TEXTS]
    data.write_lines(out / "expected" / "sentencepiece.json", report)


def load(folder):
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (folder / "config.json").unlink()
    return tokenizer


def case(name, text, itself, reference):
    """`sentencepiece`: what it gives; where texts hold names of tokens, which it does not look for, null."""
    named = any(token in text for token in ("<s>", "<|", "<unk>", "[INST]", "<pad>"))
    own = None if named else itself.encode(text)
    if reference is None:
        return {"text": text, "ids": own, "sentencepiece": own}
    ids = reference(text, add_special_tokens=False)["input_ids"]
    if own is not None and text == text.strip(" ") and "  " not in text and "▁" not in text and ids != own:
        raise SystemExit(f"{name}: {text!r} is {ids} in transformers and {own} in SentencePiece")
    return {"text": text, "ids": ids, "sentencepiece": own}
