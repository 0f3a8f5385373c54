"""Rows in Parquet as pyarrow writes them, and the JSON that they mean: every codec, nested messages with tools, dictionaries,
several row groups and pages, both versions of pages."""

import json

import pyarrow
from pyarrow import parquet

import data

CALL = pyarrow.struct(
    [
        ("id", pyarrow.string()),
        ("type", pyarrow.string()),
        ("function", pyarrow.struct([("name", pyarrow.string()), ("arguments", pyarrow.string())])),
    ]
)
MESSAGE = pyarrow.struct(
    [
        ("role", pyarrow.string()),
        ("content", pyarrow.string()),
        ("name", pyarrow.string()),
        ("tool_call_id", pyarrow.string()),
        ("tool_calls", pyarrow.list_(CALL)),
        ("weight", pyarrow.int64()),
    ]
)
# A struct has the names of all rows: what a row lacks is null in it.
PROPERTY = pyarrow.struct([("type", pyarrow.string()), ("enum", pyarrow.list_(pyarrow.string())), ("default", pyarrow.float64())])
PROPERTIES = pyarrow.struct([("article", PROPERTY), ("at_least", PROPERTY), ("city", PROPERTY)])
PARAMETERS = pyarrow.struct([("type", pyarrow.string()), ("properties", PROPERTIES), ("strict", pyarrow.bool_())])
TOOL = pyarrow.struct(
    [
        ("type", pyarrow.string()),
        ("function", pyarrow.struct([("name", pyarrow.string()), ("parameters", PARAMETERS)])),
    ]
)

LAMPS = {
    "type": "function",
    "function": {
        "name": "stock",
        "parameters": {
            "type": "object",
            "properties": {
                "article": {"type": "string"},
                "at_least": {"type": "number", "default": 1.5},
                "city": {"type": "string", "enum": ["Köln", "東京"]},
            },
            "strict": False,
        },
    },
}
CALLS = [
    {"id": "call00001", "type": "function", "function": {"name": "stock", "arguments": '{"article": "lamp"}'}},
    {"id": "call00002", "type": "function", "function": {"name": "stock", "arguments": '{"article": "Tür", "at_least": 2}'}},
]


def conversations():
    rows = [{"messages": row["messages"], "tools": None} for row in data.PLAIN]
    rows.append(
        {
            "messages": [
                {"role": "user", "content": "How many lamps and doors?"},
                {"role": "assistant", "tool_calls": CALLS},
                {"role": "tool", "tool_call_id": "call00001", "name": "stock", "content": "7"},
                {"role": "tool", "tool_call_id": "call00002", "name": "stock", "content": "0"},
                {"role": "assistant", "content": "Seven lamps, no door. 👍", "weight": 1},
            ],
            "tools": [LAMPS, LAMPS],
        }
    )
    for number in range(6):
        rows.append(
            {
                "messages": [{"role": "user", "content": f"{number} times ä?"}]
                + [{"role": "assistant", "content": "ä" * number + "\n", "weight": number % 2}] * (1 + number % 3),
                "tools": [] if number % 2 else [LAMPS],
            }
        )
    return rows


def pairs(count):
    return [{"prompt": f"question {number % 5} 日本", "completion": f"answer {number}", "id": number} for number in range(count)]


def preferences():
    turn = {"role": "assistant", "content": "Seven."}
    ask = [{"role": "user", "content": "3 + 4?"}]
    return [{"prompt": ask, "chosen": [turn], "rejected": [turn | {"content": word}]} for word in ("Eight.", "", "8")]


def write(out, name, rows, schema, **options):
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema(schema))
    parquet.write_table(table, out / "parquet" / name, store_schema=False, **options)
    # As the file has it: a null part of a struct is one that is not there.
    return [json.dumps(without_nulls(row), ensure_ascii=False) for row in parquet.read_table(out / "parquet" / name).to_pylist()]


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def write_files(out):
    (out / "parquet").mkdir()
    text, turn = pyarrow.string(), pyarrow.struct([("from", pyarrow.string()), ("value", pyarrow.string())])
    messages = [("messages", pyarrow.list_(MESSAGE)), ("tools", pyarrow.list_(TOOL))]
    few = pyarrow.dictionary(pyarrow.int32(), text)
    shared = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    short = pyarrow.struct([("role", text), ("content", text)])
    files = {
        "messages-snappy.parquet": (conversations(), messages, {"compression": "snappy", "row_group_size": 4}),
        "messages-zstd.parquet": (
            conversations(),
            messages,
            {"compression": "zstd", "data_page_version": "2.0", "use_dictionary": False, "data_page_size": 64, "write_batch_size": 2},
        ),
        "pairs-gzip.parquet": (
            pairs(300),
            [("prompt", few), ("completion", text), ("id", pyarrow.int64())],
            {"compression": "gzip", "row_group_size": 128, "data_page_size": 256, "write_batch_size": 16},
        ),
        "pairs-plain.parquet": (
            pairs(20),
            [("id", pyarrow.uint8()), ("prompt", text), ("completion", pyarrow.large_string())],
            {
                "compression": "none",
                "use_dictionary": False,
                "column_encoding": {"prompt": "DELTA_BYTE_ARRAY", "completion": "DELTA_LENGTH_BYTE_ARRAY", "id": "PLAIN"},
            },
        ),
        "text-plain.parquet": ([{"text": "ab"}, {"text": "cdé"}], [("text", text)], {"compression": "none", "use_dictionary": False}),
        "alpaca-lz4.parquet": (
            [{"instruction": "Add", "input": "3, 4" if row else None, "output": "7"} for row in range(3)],
            [("instruction", text), ("input", text), ("output", text), ("created", pyarrow.timestamp("us"))],
            {"compression": "lz4"},
        ),
        "sharegpt-brotli.parquet": (
            [{"conversations": shared * (row + 1), "system": "Be short."} for row in range(3)],
            [("conversations", pyarrow.list_(turn)), ("system", text)],
            {"compression": "brotli"},
        ),
        "preference-zstd.parquet": (
            preferences(),
            [(name, pyarrow.list_(short)) for name in ("prompt", "chosen", "rejected")],
            {"compression": "zstd"},
        ),
    }
    rows = {name: write(out, name, rows, schema, **options) for name, (rows, schema, options) in files.items()}
    data.write_lines(out / "expected" / "parquet.json", rows)
