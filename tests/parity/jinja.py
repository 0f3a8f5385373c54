"""What templates of chat print by Jinja as transformers sets it up: Python's methods, `tojson` with its arguments, and what is undefined.

Each entry is a template and its text, or none where Jinja refuses it. Texts are ours; results are the reference's.
"""

import data
from transformers.utils.chat_template_utils import _compile_jinja_template

VALUE = "{'z': [1, 2.5, none, true], 'ü': 'a\"<&\\u00e9\\n', 'a': {'c': [], 'b': {}}}"
TEMPLATES = [
    # tojson
    *(
        f"{{{{ {VALUE} | tojson({arguments}) }}}}"
        for arguments in (
            "",
            "true",
            "ensure_ascii=true",
            "indent=2",
            "indent=0",
            "indent='\\t'",
            "sort_keys=true",
            "separators=(',', ':')",
            "separators=(', ', ': '), indent=1",
            "false, 4",
            "ensure_ascii=false, indent=none, separators=none, sort_keys=false",
            "separators=(',',)",
            "indent=1, sort_keys=true, ensure_ascii=true",
            "unknown=1",
        )
    ),
    "{{ missing | tojson }}",
    "{{ '👍\\x7f' | tojson(ensure_ascii=true) }}",
    "{{ {1: 2, none: 3} | tojson }}",
    # texts
    *(
        f"{{{{ {call} }}}}"
        for call in (
            "'a,b,c,d'.split(',', 2)",
            "'a,b,c,d'.split(',', maxsplit=1)",
            "'a,b,c,d'.split(sep=',')",
            "'  a  b \\n c '.split()",
            "'  a  b  c '.split(none, 1)",
            "'a b c '.split(maxsplit=1)",
            "'abc'.split('')",
            "''.split()",
            "''.split(',')",
            "'a,b,c,d'.rsplit(',', 1)",
            "'  a  b  c '.rsplit(none, 1)",
            "'a,b'.rsplit(',')",
            "'<think>x</think>y'.split('</think>')[-1].lstrip('\\n')",
            "'a\\r\\nb\\nc\\rd'.splitlines()",
            "'a\\n\\nb\\n'.splitlines(true)",
            "'a\\x0bb\\u2028c'.splitlines()",
            "'xxabcxx'.strip('x')",
            "'xyabcyx'.lstrip('xy')",
            "'xyabcyx'.rstrip('xy')",
            "' \\t\\n\\x1c a \\u00a0\\u3000'.strip()",
            "'  a '.lstrip() ~ '|'",
            "'  a '.rstrip() ~ '|'",
            "'abcabc'.removeprefix('abc')",
            "'abcabc'.removesuffix('bc')",
            "'abc'.removeprefix('x')",
            "'k=v=w'.partition('=')",
            "'k=v=w'.rpartition('=')",
            "'k'.partition('=')",
            "'k'.rpartition('=')",
            "'abc'.startswith(('x', 'a'))",
            "'abc'.startswith('b', 1)",
            "'abc'.startswith('c', 1, 2)",
            "'abc'.endswith(('x', 'bc'))",
            "'abc'.endswith('b', 0, 2)",
            "'abc'.startswith(1)",
            "'abcabc'.find('c')",
            "'abcabc'.find('c', 3)",
            "'abcabc'.find('a', 1, 3)",
            "'äbcäbc'.rfind('ä')",
            "'abc'.find('x')",
            "'äbc'.index('c')",
            "'abc'.index('x')",
            "'abca'.rindex('a')",
            "'aXbXc'.replace('X', '-')",
            "'aXbXc'.replace('X', '-', 1)",
            "'ab'.replace('', '-')",
            "'aaa'.count('a')",
            "'aaaa'.count('aa')",
            "'aaa'.count('a', 1)",
            "'-'.join(['a', 'b'])",
            "'-'.join('abc')",
            "'-'.join([1, 2])",
            "'hello wORLD'.title()",
            "\"they're bill's\".title()",
            "'hELLO wORLD'.capitalize()",
            "'Hello'.swapcase()",
            "'Straße'.casefold()",
            "'Straße'.upper()",
            "'Hello'.lower()",
            "'7'.zfill(3)",
            "'-7'.zfill(4)",
            "'ab'.ljust(5, '.')",
            "'ab'.rjust(5) ~ '|'",
            "'ab'.center(5, '*')",
            "'abc'.center(6, '*')",
            "'a\\tb'.expandtabs(4)",
            "'a\\tbc\\td'.expandtabs()",
            "'12'.isdigit()",
            "'1a'.isdigit()",
            "''.isdigit()",
            "'²'.isdigit()",
            "'²'.isdecimal()",
            "'½'.isnumeric()",
            "'½'.isdigit()",
            "'abc'.isalpha()",
            "'ab1'.isalnum()",
            "'ab '.isalnum()",
            "' \\t'.isspace()",
            "'ABC'.isupper()",
            "'abc1'.islower()",
            "'Ab Cd'.istitle()",
            "'Ab cd'.istitle()",
            "'a_1'.isidentifier()",
            "'1a'.isidentifier()",
            "'a\\n'.isprintable()",
            "'abc'.isascii()",
            "'{} and {}'.format('a', 1)",
            "'{0}{1}{0}'.format('a', 'b')",
            "'{x}'.format(x='y')",
            "'abc'.unknown()",
            "'abcdef'[::-1]",
            "'abcdef'[1:5:2]",
            "'äbc'[1:]",
            "'abc'[-1]",
            "'ab' * 2",
            "'  x '|trim ~ '|'",
            "'xxaxx'|trim('x')",
        )
    ),
    # lists and dictionaries
    *(
        f"{{{{ {call} }}}}"
        for call in (
            "[1, 2, 3, 2].count(2)",
            "[1, 2, 3, 2].index(2)",
            "[1, 2].index(9)",
            "[1, 2, 3][::2]",
            "[1, 2, 3][::-1]",
            "[1, 2] + [3]",
            "[1, 2].copy()",
            "{'a': 1}.get('a')",
            "{'a': 1}.get('b')",
            "{'a': 1}.get('b', 'c')",
            "{'a': 1, 'b': 2}.keys() | list",
            "{'a': 1, 'b': 2}.values() | list",
            "{'a': 1, 'b': 2}.items() | list",
            "{'items': {'x': 1}}['items'].items() | list",
            "{'items': 1}.items() | list",
            "{'a': 1}.copy()",
            "{'a': 1}.pop('a')",
            "[1].append(2)",
            "[3, 1, 2] | sort",
            "[{'r': 'a'}, {'r': 'b'}] | map(attribute='r') | list",
            "[{'r': 'a'}, {'r': 'b'}] | selectattr('r', 'equalto', 'b') | list",
            "[1, 2, 3] | select('odd') | list",
            "[1, 2, 3] | join(', ')",
            "['a', 'b'] | first ~ ['a', 'b'] | last",
            "[1, 2, 3] | length",
        )
    ),
    # what a value is
    *(
        "{{ " + " ~ ' ' ~ ".join(f"(({value}) is {test})|string" for value in ("'a'", "[1]", "{'a': 1}", "1", "1.5", "true", "none", "missing")) + " }}"
        for test in ("string", "sequence", "mapping", "iterable", "number", "integer", "float", "boolean", "none", "defined", "undefined")
    ),
    # what is absent is undefined
    "{{ messages[0].content }}|{{ messages[0].content is defined }}|{{ messages[0].content is none }}",
    "{{ messages[0]['role'] + messages[0]['content'] }}",
    "{% if not messages[0].tool_calls %}none{% endif %}",
    "{{ 'content' in messages[0] }}",
    "{{ messages[0].content or 'else' }}",
    "{{ messages[0].content | default('else') }}",
    "{{ messages[0].get('content') }}",
    "{{ messages[0].get('content', '') }}",
    "{{ tools is defined }} {{ tools is none }} {{ documents is none }}",
    "{{ missing.deeper }}",
    # statements
    "{% set ns = namespace(a=1) %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ loop.index0 }}{{ k }}{{ v }}{{ ',' if not loop.last }}{% endfor %}",
    "{% macro tag(name, text='') %}<{{ name }}>{{ text }}</{{ name }}>{% endmacro %}{{ tag('a', 'b') }}{{ tag(name='c') }}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}{% for k, v in {'a': 1} | items %}{{ k }}{{ v }}{% endfor %}",
    "{{ (1,) }} {{ (1, 'a') }} {{ () }}",
    "{% set x %}a{{ 1 }}{% endset %}{{ x }}",
    "{% filter upper %}abc{% endfilter %}",
    "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 3 }}",
    "{{ 'a' if false }}|",
    "{% for i in [] %}x{% else %}empty{% endfor %}",
    "{{ loop is defined }}",
    "{%- for m in messages %}\n  {{- m.role }}\n{%- endfor %}",
]
# A turn of the assistant that calls and says nothing, as a row has it.
MESSAGES = [{"role": "assistant"}]


def rendered(template):
    try:
        return _compile_jinja_template(template).render(messages=MESSAGES, tools=None, documents=None, add_generation_prompt=False)
    except Exception:  # noqa: BLE001: a template fails in as many ways as Python has
        return None


def write_expected(out):
    data.write_lines(out / "expected" / "jinja.json", [{"template": template, "text": rendered(template)} for template in TEMPLATES])
