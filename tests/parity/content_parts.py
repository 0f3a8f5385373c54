"""Message content as a list of parts, as templates of multimodal checkpoints want it, and as those for text cannot take it."""

import json

import data

# This project's own, with the Jinja that published ones use: each part is trimmed, and a text may stand in place of the list.
PARTS = """{%- for message in messages -%}
<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] | trim }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<image>{%- elif part['type'] == 'text' -%}{{ part['text'] | trim }}{%- endif -%}
{%- endfor -%}
{%- endif -%}<end_of_turn>
{% endfor -%}"""
TEXT = "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
PRINTED = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\\n{% endfor %}"


def part(text):
    return {"type": "text", "text": text}


ROWS = [
    [{"role": "user", "content": [part("Hi")]}, {"role": "assistant", "content": [part("Hello")]}],
    [
        {"role": "system", "content": "Be short. "},
        {"role": "user", "content": [part(" Wie heißt "), part("das? \n"), part("")]},
        {"role": "assistant", "content": [part("東京 "), part(" 👍")]},
    ],
]


def write_expected(out):
    tokenizer = data.tokenizer_of(out, "byte-level")
    report = []
    for template, takes in ((PARTS, True), (TEXT, False), (PRINTED, False)):
        for row in ROWS:
            given = row if takes else [message | {"content": joined(message["content"])} for message in row]
            text = tokenizer.apply_chat_template(given, chat_template=template, tokenize=False)
            report.append({"template": template, "row": json.dumps({"messages": row}, ensure_ascii=False), "text": text})
    data.write_lines(out / "expected" / "content-parts.json", report)


def joined(content):
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
