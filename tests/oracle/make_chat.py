#!/usr/bin/env python3
"""Makes testdata/chat: chat templates of our own that use each construct, and what transformers renders.

    make_chat.py [--out testdata/chat]

cases.jsonl: a line a case, {"template", "tokens", "input", "prompt"} and "text" or "refused"; input is JSON as a
text, and "spans" the parts in {% generation %}, in characters.
"""
import argparse
import datetime
import json
import os

import transformers.utils.chat_template_utils as utils

TOP = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TALK = {"messages": [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  What is 2+2?\n"},
    {"role": "assistant", "content": "4 "},
    {"role": "user", "content": "Çok güzel 🦙 'q' \"d\" <b>"},
]}
LISTS = {"messages": [], "a": [3, 1, 2], "s": "Hello wörld", "d": {"x": 1, "y": [1.5, None, True], "items": 7},
         "n": 5, "f": 2.5, "t": True, "z": None, "e": "", "words": ["b", "A", "c", "a"],
         "people": [{"name": "Eve", "age": 30, "at": {"city": "Ulm"}}, {"name": "bob", "age": 25, "at": {"city": "Bonn"}},
                    {"name": "Al", "age": 30, "at": {}}],
         "tool": {"type": "function", "function": {"name": "f", "description": "d\n\t\u0001é", "parameters":
                  {"type": "object", "properties": {"x": {"type": "number", "enum": [1, 2.0, 1e20]}}, "required": []}}}}

EXPRESSIONS = r"""
1 + 2 * 3|2 ** 10 - 1|7 // 2|-7 // 2|7 % 3|-7 % 3|7 / 2|2 ** -1|7.5 // 2|-7.5 % 2|1e3|1.5e-7|123456789012345680.0|0.1 + 0.2
10 / 5|'a' + 'b'|'a' ~ 1 ~ none ~ true ~ [1]|'ab' * 3|[1] * 2 + [2]|(1, 2) + (3,)|()|(1,)|3 * 'x'|-f|+n|not n|- n ** 2
n > 3 and f|e or 'x'|z or e|e and 1|not e|n == 5.0|1 == true|'a' < 'b'|[1, 2] < [1, 3]|1 < 2 < 3|1 < 3 < 2|n != 5|z == none
'ell' in s|'x' in d|3 in a|3 not in a|none in [none]|'' in s|'a' in missing|missing in a
s[0]|s[-1]|s[1:4]|s[::-1]|s[::2]|s[-3:]|s[:-3]|a[::-1]|a[1:]|a[5:]|a[-9:2]|a[2:0:-1]|(1, 2, 3)[1:]|s[7:8]
d.x|d['x']|d.y[1]|d['y'][-1]|d['items']|d.get('x')|d.get('q')|d.get('q', 4)|d.missing|a[9]
'yes' if n else 'no'|'yes' if e else 'no'|'yes' if e|(1 if z else 2 if e else 3)
[1, 'a', none, true, 1.0, (1,), {'k': [1]}, "it's", 'q"', "\n\\\x00é\u200b"]|{}|{'a': 1, "b": {}}|{1: 2, none: 3}
""" + r"""
'  x '.strip()|' x '.lstrip() ~ '.'|'xxaxx'.strip('x')|'xxa'.rstrip('a')|'a,b,,c'.split(',')|' a  b '.split()|'a b c'.split(' ', 1)
'a,b,c'.rsplit(',', 1)|'a--b'.split('--')|s.startswith('He')|s.endswith(('x', 'ld'))|s.replace('l', 'L')|s.replace('l', '', 1)
'abc'.replace('', '-')|s.upper()|s.lower()|s.title()|"they're x-ray 3b".title()|s.capitalize()|','.join(['a', 'b'])|s.find('w')|s.find('q')
s.count('l')|'a\nb\r\nc\x0b'.splitlines()|'12'.isdigit()|' \t'.isspace()|'pre-x'.removeprefix('pre-')|'x.py'.removesuffix('.py')
a.index(2)|a.count(3)|'a b c d'.split(none, 2)|'éa'.upper()|'ÇA'.lower()
"""
FILTERS = r"""
'  x '|trim ~ '.'@'xxa'|trim('x')@s|length@a|count@missing|length@missing|default('d')@e|default('d')@e|default('d', true)@z|d(1)@n|default
s|upper@s|lower@'hello wörld-wide (web)'|title@'HELLO'|capitalize@words|first@words|last@words|join(', ')@[1, none]|join@people|join('/', 'name')
s|list@d|list@d.keys()|list@d.values()|list@d.items()|list@tool|tojson@tool|tojson(indent=2)@tool|tojson(indent=4)@d|tojson(sort_keys=true)@[]|tojson(indent=2)@{}|tojson@'é"\\/<>&\u2028'|tojson
'é🦙\x7f'|tojson(ensure_ascii=true)@tool|tojson(separators=(',', ':'))@[1.0, 1e22, 5e-324, 0.1]|tojson@none|tojson@{1: 2, none: true, 1.5: []}|tojson
s|replace('l', 'L')@s|replace('l', 'L', 1)@123|string ~ 4@'42'|int@'x'|int@'x'|int(7)@'4.9'|int@4.9|int@-4.9|int@'4.5'|float@'q'|float(1.5)@true|int@' 12 '|int
people|map(attribute='name')|list@people|map(attribute='at.city', default='?')|list@words|map('upper')|join@a|map('string')|list@people|map(attribute='age')|sum
people|selectattr('age', 'equalto', 30)|map(attribute='name')|list@people|rejectattr('age', 'gt', 26)|list|length@people|selectattr('at.city')|list|length
people|selectattr('at.city', 'defined')|list|length@a|select('odd')|list@a|reject('odd')|list@[0, 1, '', 'x']|select|list@[0, 1, '', 'x']|reject|list
people|selectattr('name', 'in', ['Al', 'Eve'])|map(attribute='name')|list
a|sort@a|sort(reverse=true)@words|sort@words|sort(case_sensitive=true)@people|sort(attribute='name')|map(attribute='name')|list
people|sort(attribute='age')|map(attribute='name')|list@people|sort(true, false, 'age')|map(attribute='name')|list@d|dictsort|list|length@{'b': 1, 'A': 2}|dictsort
{'b': 1, 'a': 2}|dictsort(by='value')@{'b': 1, 'A': 2}|dictsort(true)@a|max@a|min@[]|max@words|max@a|sum@a|sum(start=10)@people|sum('age')
a|reverse|list@s|reverse@words|unique|list@words|unique(true)|list@d|items|list@-3|abs@-2.5|abs@'a\nb\n\nc'|indent@'a\nb'|indent(2, true)@'a\n\nb'|indent('> ', blank=true)
'<b>'|safe@[1, 2]|string|length@'a\nb\n'|indent(1)@s|list|length@3|string@-x|d(4)
"""
TESTS = """
missing is defined@n is defined@n is not defined@missing is undefined@z is none@n is none@t is true@t is false@1 is true@t is boolean@n is integer
t is integer@f is float@n is number@t is number@s is string@n is string@d is mapping@a is mapping@a is sequence@d is sequence@s is sequence@n is sequence
missing is sequence@missing is iterable@missing is mapping@missing is string@a is iterable@n is iterable@s is iterable@z is iterable@n is odd@n is even
n is divisibleby 5@n is divisibleby(3)@n is eq 5@n is equalto(4)@n is ne 5@n is lt 6@n is ge 5@n is gt(5)@n is le 4@'a' is in s@3 is in a@s is upper@'AB' is upper
'ab' is lower@z is sameas none@t is sameas true@n is callable@range is callable@n is not string and s is string@not n is string
d.y is defined and d.q is not defined@d.q is none@n is eq 5 or false@n is string == false
"""
REFUSED = """
{{ missing.x }}@{{ d.q.r }}@{{ n.x.y }}@{{ missing() }}@{{ 1 + 'a' }}@{{ missing + 1 }}@{{ 1 < 'a' }}@{{ 1 // 0 }}@{{ raise_exception('no') }}@{{ a.append(1) }}
{{ d.update({'q': 1}) }}@{% for x in n %}{% endfor %}@{% for a, b in [1] %}{% endfor %}@{% for a, b in [[1, 2, 3]] %}{% endfor %}@{{ n|length }}@{{ missing|tojson }}
{% set d.x = 1 %}@{{ [1, 'a']|sort }}@{{ {}|dictsort(by='q') }}@{{ 'a'.split('') }}@{{ 'a'|foo }}@{{ a is foo }}@{% if %}{% endif %}@{% endif %}@{{ 1 + }}
{% for x in a %}@{{ 'a }}@{# a@{{ a[1:2:0] }}@{% set ns = namespace() %}{% set ns.__x = 1 %}@{% macro m(x) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(x) %}{% endmacro %}{{ m(y=2) }}@{% break %}@{{ 'a' in 1 }}@{{ 1 in 'a' }}@{{ {[]: 1} }}@{{ (1, 2 }}@{{ a['x':] }}@{{ s|replace('a') }}
{{ a|selectattr|list }}@{{ range() }}@{{ 'x' is divisibleby 2 }}@{{ s.foo() }}@{{ d.get() }}@{% frob %}@{{ 1 2 }}@{{ } }}@{{ f() }}@{{ s(1) }}@{{ -s }}
"""
STATEMENTS = [
    "{% for x in a %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} "
    "{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in [] %}a{% else %}none{% endfor %}{% for x in [1] %}a{% else %}none{% endfor %}",
    "{% for x in a if x > 1 %}{{ loop.index }}{{ x }}{{ loop.last }}{% else %}no{% endfor %}{% for x in a if x > 9 %}.{% else %}no{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in s %}{{ c }}.{% endfor %}",
    "{% for x in a %}{% for y in words %}{{ loop.depth }}{{ loop.depth0 }}{{ x }}{{ y }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in a %}{{ loop.cycle('odd', 'even') }}{{ loop.changed(x) }}{% endfor %}{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}",
    "{% set x = 1 %}{% for y in a %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}",
    "{% set ns = namespace(n=0, l=[]) %}{% for x in a %}{% set ns.n = ns.n + x %}{% set ns.l = ns.l + [x] %}{% endfor %}{{ ns.n }}{{ ns.l }}",
    "{% set x, y = 1, 2 %}{{ x }}{{ y }}{% set (x, y) = (y, x) %}{{ x }}{{ y }}{% for a, (b) in [[1, 2]] %}{% endfor %}",
    "{% set x %}a{{ n }}b{% endset %}[{{ x }}]{% set y | upper %}q{{ s }}{% endset %}{{ y }}{% set z2 = d %}{{ z2.x }}",
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{{ n }}{% endmacro %}{{ m(1) }}|{{ m(1, c=3) }}|{{ m() }}|{{ m(b=1, a=2)|upper }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}{% set q = 1 %}{% macro g() %}{{ q }}{% endmacro %}{% set q = 2 %}{{ g() }}",
    "{% if e %}a{% elif z %}b{% elif n %}c{% else %}d{% endif %}{% if e %}a{% else %}{% if n %}q{% endif %}{% endif %}",
    "{% with x = 1, y = n %}{{ x }}{{ y }}{% endwith %}{{ x }}{% filter upper %}abc{{ s }}{% endfilter %}{% filter replace('a', 'b')|upper %}aa{% endfilter %}",
    "a{# c #}b\n{# d #}\nc\n  {# e #}  \nd{#- f -#}  e {#+ g #}\nq",
    "x\n  {% if true %}\n  y\n  {% endif %}\nz\n", "x  {% if true %}  y  {% endif %}  \n z", "x \n {%- if true -%} \n y \n {%- endif -%} \n z\n\n",
    "x\n  {%+ if true %}\n y{% endif +%}\n z", "  {% if true %}a{% endif %}\n\n  {{ n }}\n  {{- n }}\n{{ n -}}\n\n b", "\n{% set x = 1 -%}\n\n  {{ x }}\r\n{{ x }}\r{{ x }}\n",
    "{% raw %}{{ a }} {% b %}{% endraw %}c {%- raw -%} {{ x }} {%- endraw -%} d\n{% raw %}\n e {% endraw %}\nf", "{{ '{{' }}{{ '%}' }}{{ {'a': {'b': 1}} }}{{ {'a': {}}['a'] }}",
    "{{ 'a' 'b' \"c\" }}{{ 'x\\ny\\t\\x41\\u00e9\\'\\\"\\\\\\q' }}{{ \"é\\\n\" }}{{ 1_000 }}{{ 1.0 }}{{ 1e-9 }}{{ 1E5 }}",
    "{% for m in messages %}{% endfor %}{{ messages }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ bos_token }}{{ pad_token is defined }}",
    "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S %A %B %j') }}{{ dict(a=1, b='x') }}{{ range(3)|list }}{{ range(1, 9, 3)|list }}{{ range(5, 0, -2)|list }}",
    "{%- for x in a -%}\n  {{ x }}\n{%- endfor -%}\n", "{% if n is defined and n is not none %}{{ n }}{% endif %}{% if not (n is string) %}x{% endif %}",
    "{% for x in a|sort|reverse %}{{ x }}{% endfor %}{% for x in (1, 2) %}{{ x }}{% endfor %}{% for x in 1, 2 %}{{ x }}{% endfor %}{% for x in 'ab' ~ 'c' %}{{ x }}-{% endfor %}",
    "{% set ns = namespace(found=false) %}{% for m in people %}{% if m.age == 25 %}{% set ns.found = m['name'] %}{% break %}{% endif %}{% endfor %}{{ ns.found }}",
    "{% for p in people %}{{ p.name + ': ' ~ p.age }}{{ ',' if not loop.last }}{% endfor %}", "{{ n if n is defined else 'x' }}{{ (s|upper)[0:2] ~ (a|length) }}{{ d.y|length + 1 }}",
    "{% macro a1() %}{{ a2() }}{% endmacro %}{% macro a2() %}two{% endmacro %}{{ a1() }}{% set loop = 3 %}{{ loop }}{% for x in [1] %}{{ loop.index }}{% endfor %}{{ loop }}",
    "{% for i in [1, 2] %}{% set v %}{% for j in [3] %}{{ i }}{{ j }}{{ loop.index }}{% endfor %}{% endset %}{{ v }}{% endfor %}",
    "{% macro m(x) %}<{{ caller(x + 1) }}|{{ caller(0) }}>{% endmacro %}{% call(y) m(n) %}{{ y }}{{ s }}{% endcall %}{% macro q() %}[{{ caller() }}]{% endmacro %}{% call q() %}b{% endcall %}",
    "{% macro m(x, y=1, z='q') %}{{ x }}{{ y }}{{ z }}{% endmacro %}{{ m(*a) }}{{ m(**{'x': 1, 'z': 2}) }}{{ m(*[1], **{'y': 3}) }}{{ dict({'a': 1}, **d) }}{{ dict(a=2, **{'b': 1}) }}",
    "{% for x in a %}{% if loop.first %}{% set k = x %}{% endif %}{{ k }}{% endfor %}{{ k }}",
]
CHATS = [
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0].content | trim %}{% set loop_messages = messages[1:] %}{% else %}"
    "{% set loop_messages = messages %}{% endif %}\n{% for m in loop_messages %}\n{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}\n  {% if m['role'] == 'user' %}\n{{ '[INST] ' + ('<<SYS>>' ~ system ~ '<</SYS>>\\n\\n' if loop.first and system is defined else '') "
    "+ m['content'].strip() + ' [/INST]' }}\n  {%- elif m['role'] == 'assistant' %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}\n{% endfor %}",
    "{%- for m in messages %}\n    {%- if m.role == 'assistant' %}\n{% generation %}\n{{ m.content }}{{ eos_token }}{% endgeneration %}\n    {%- else %}\n{{ m.role }}: {{ m.content }}\n    {%- endif %}\n{%- endfor %}",
]


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 1, 2, 3)


def render(template, given, prompt, tokens, spans=False):
    """Text and spans as apply_chat_template has them; or None: it was refused."""
    given = json.loads(json.dumps(given))
    messages = [{k: v for k, v in m.items() if v is not None} for m in given.pop("messages")]
    utils.datetime = Clock
    try:
        texts, where = utils.render_jinja_template(
            [messages], given.pop("tools", None), given.pop("documents", None), chat_template=template,
            add_generation_prompt=prompt, return_assistant_tokens_mask=spans, **{**tokens, **given})
        return texts[0], where[0] if spans else []
    except Exception:
        return None


def split(text, by):
    return [x.strip() for line in text.strip().splitlines() for x in line.split(by) if x.strip()]


def cases():
    for x in EXPRESSIONS.strip().splitlines():
        # a filter's | is no separator here: what does not parse alone is put together again
        part = ""
        for p in x.split("|"):
            part = part + "|" + p if part else p
            template = "{{ " + part + " }}"
            if p != "list" and render(template, LISTS, False, TOKENS) is not None:
                yield template, LISTS, False
                part = ""
    for x in split(FILTERS, "@") + split(TESTS, "@"):
        yield "{{ " + x + " }}", LISTS, False
    for x in split(REFUSED, "@") + STATEMENTS:
        yield x, LISTS, False
    for template in CHATS:
        for prompt in False, True:
            yield template, TALK, prompt
            yield template, {"messages": TALK["messages"][1:]}, prompt
    yield ("{% for m in messages %}{{ m }}{% endfor %}{{ tools|tojson }}{{ extra }}",
           {"messages": [{"role": "assistant", "content": None, "reasoning": "hm", "x": 1}], "tools": [{"a": 1}], "extra": "q"}, False)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", default=os.path.join(TOP, "testdata/chat"))
    out = p.parse_args().out
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "cases.jsonl"), "w") as f:
        n = 0
        names = {"L": LISTS, "T": TALK}
        for template, given, prompt in cases():
            known = next((k for k, v in names.items() if v is given), None)
            case = {"template": template, "input": known or json.dumps(given, ensure_ascii=False), "prompt": prompt}
            got = render(template, given, prompt, TOKENS, "generation" in template)
            if got is None:
                case["refused"] = True
            else:
                case["text"] = got[0]
                if got[1]:
                    case["spans"] = got[1]
            f.write(json.dumps(case, ensure_ascii=False) + "\n")
            n += 1
    for name, value in names.items():
        with open(os.path.join(out, name + ".json"), "w") as f:
            json.dump(value, f, ensure_ascii=False)
            f.write("\n")
    print(n, "cases")


if __name__ == "__main__":
    main()
