#!/usr/bin/env python3
"""Compares pq's chat templates with transformers: the cases of make_chat.py, random templates, and ids and masks.

    check_chat.py [--templates 4000] [--seed 1] BIN [template.jinja ...]

BIN is build/bin; chat.c is compiled against the libpq.a beside it.  Templates that are named are rendered, too: each
has conversations of several kinds.  What pq says it does not support is counted, never taken for equal.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings

import transformers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, os.path.dirname(__file__))
import make_chat as made  # noqa: E402
import report  # noqa: E402

ATOMS = ["a", "s", "d", "n", "f", "t", "z", "e", "words", "people", "missing", "q", "1", "-2", "0", "2.5", "'ab'", "''", "'l'",
         "[1, 2]", "['b', 'a']", "(1, 'x')", "{'x': 2}", "true", "none", "d.y", "d.x", "people[0].name", "words[1]", "[]", "s[1]"]
BINARY = ["+", "-", "*", "~", "/", "//", "%", "==", "!=", "<", ">=", "in", "not in", "and", "or"]
FILTERS = ["trim", "length", "upper", "lower", "first", "last", "list", "string", "int", "float", "tojson", "join(',')", "join",
           "title", "capitalize", "default('q')", "default('q', true)", "reverse|list", "sort", "unique|list", "sum", "max", "min",
           "map('string')|list", "map(attribute='name')|list", "select|list", "reject('string')|list", "abs", "replace('l', 'x')",
           "selectattr('age', 'gt', 26)|list", "tojson(indent=1)", "indent", "items|list", "dictsort", "map('upper')|list"]
TESTS = ["defined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "true", "false", "odd", "boolean",
         "eq 1", "in [1, 'ab']", "lt 3", "undefined", "upper", "lower", "float", "callable", "even"]
POSTFIX = ["[0]", "[-1]", "[1:]", "[::-1]", "[:2]", ".x", "['y']", ".upper()", ".strip()", ".split('l')", ".split()", ".get('x', 3)",
           ".items()|list", ".keys()|list", ".startswith('H')", ".replace('l', 'L')", ".name", ".title()", "[1:5:2]", ".count('l')"]
# The last: of constants Jinja computes slices otherwise than of variables.
KNOWN = ["not supported", "not allowed", "has no slices"]
MESSAGES = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": " Hi there \n"}, {"role": "assistant", "content": "Hello! "}],
    [{"role": "system", "content": "Be <b>brief</b>."}, {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"},
     {"role": "user", "content": "çok güzel 🦙"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nb"}, {"role": "user", "content": "c"},
     {"role": "assistant", "content": "d"}],
    [{"role": "system", "content": "S"}, {"role": "user", "content": "Weather?"},
     {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "abcdefghi", "function": {
         "name": "get", "arguments": {"city": "Köln", "n": [1, 2.5, None]}}}]},
     {"role": "tool", "name": "get", "tool_call_id": "abcdefghi", "content": "sunny"}, {"role": "assistant", "content": "Sunny."}],
    [{"role": "assistant", "content": "first"}, {"role": "system", "content": "late"}],
    [{"role": "user", "content": [{"type": "text", "text": "parts"}]}, {"role": "assistant", "content": "ok", "reasoning": "because"}],
]
TOOLS = [{"type": "function", "function": {"name": "get", "description": "The weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "where", "enum": ["Köln", "Ulm"]},
                                     "n": {"type": "array", "items": {"type": "integer"}}}, "required": ["city"]}}}]


def build(bin_dir, to):
    top, lib = report.TOP, os.path.join(bin_dir, "../lib/libpq.a")
    exe = os.path.join(to, "chat")
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-I", os.path.join(top, "lib"), os.path.join(top, "tests/oracle/chat.c"), lib, "-lcjson",
                    "-lzstd", "-lxxhash", "-lpcre2-8", "-lutf8proc", "-lm", "-pthread", "-o", exe], check=True)
    return exe


def ask(exe, cases):
    lines = "".join(json.dumps(c) + "\n" for c in cases)
    out = subprocess.run([exe], input=lines, text=True, capture_output=True, check=True).stdout
    return [json.loads(x) for x in out.split("\n") if x]


def compare(r, exe, what, cases, shown=8):
    """cases: (template, given, prompt).  Refused by transformers must be refused by pq, the rest equal."""
    got = ask(exe, [{"template": t, "tokens": made.TOKENS, "input": json.dumps(g), "prompt": p} for t, g, p in cases])
    wrong, unsupported = 0, 0
    for (t, g, p), x in zip(cases, got):
        want = made.render(t, g, p, made.TOKENS)
        if "error" in x and any(k in x["error"] for k in KNOWN):
            unsupported += want is not None
        elif ("error" in x) != (want is None) or (want and want[0] != x["text"]):
            wrong += 1
            if wrong <= shown:
                print(f"  {t[:300]!r}\n    transformers {want and want[0][:300]!r}\n    pq           {x!s:.300}")
    r.line(not wrong, what, f"{len(cases)} cases, {wrong} differ, {unsupported} that pq does not support")


def expression(r, depth):
    k = r.randrange(8) if depth > 0 else 0
    if k == 0:
        return r.choice(ATOMS)
    x = expression(r, depth - 1)
    if k == 1:
        return f"({x} {r.choice(BINARY)} {expression(r, depth - 1)})"
    if k <= 3:
        return f"({x})|{r.choice(FILTERS)}"
    if k == 4:
        return f"({x} is {r.choice(['', 'not '])}{r.choice(TESTS)})"
    if k == 5:
        return f"({x} if {expression(r, depth - 1)} else {expression(r, depth - 1)})"
    return f"({x}){r.choice(POSTFIX)}"


def space(r):
    return r.choice(["", "", " ", "\n", "\n  ", "  \n\n ", "x", " x\n"])


def body(r, depth):
    out = space(r)
    for _ in range(r.randrange(1, 4)):
        a, b = r.choice(["{%", "{%-", "{%", "{%+"]), r.choice(["%}", "-%}", "%}", "+%}"])
        k, x = r.randrange(9) if depth > 0 else 0, expression(r, 1)
        if k <= 1:
            out += r.choice(["{{ ", "{{- "]) + x + r.choice([" }}", " -}}"])
        elif k == 2:
            out += f"{a} if {x} {b}{body(r, depth - 1)}{a} else {b}{body(r, depth - 1)}{a} endif {b}"
        elif k <= 4:
            cond = r.choice(["", "", f" if {expression(r, 1)}"])
            out += f"{a} for v in {r.choice(['a', 'words', 's', 'd', x])}{cond} {b}{{{{ loop.index }}}}{{{{ v }}}}{body(r, depth - 1)}{a} endfor {b}"
        elif k == 5:
            out += f"{a} set {r.choice(['w', 'q'])} = {x} {b}"
        elif k == 6:
            out += f"{a} set q {b}{body(r, depth - 1)}{a} endset {b}{{{{ q }}}}"
        elif k == 7:
            out += f"{a} macro m(n, p={x}) {b}{body(r, depth - 1)}{{{{ p }}}}{a} endmacro {b}{{{{ m({expression(r, 1)}) }}}}"
        else:
            out += r.choice(["{# c #}", "{#- c -#}", "{# c\n#}\n"])
        out += space(r)
    return out


def masks(r, exe, name, path):
    """The generation template: ids, and return_assistant_tokens_mask.

    No turn begins with white space: of a token whose offsets leave its space out transformers finds no place, and then
    marks nothing from there on.
    """
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=path)
    template = made.CHATS[2]
    rng, wrong, n = random.Random(5), 0, 60
    cases = []
    for _ in range(n):
        words = lambda: "".join(rng.choice(["the ", "cat", " ", "\n", "é", "'s", "🦙", "42", ".", "Once"]) for _ in range(rng.randrange(8)))
        cases.append({"messages": [{"role": rng.choice(["user", "assistant"]), "content": "x" + words() + "x"} for _ in range(rng.randrange(1, 5))]})
    got = ask(exe, [{"template": template, "tokens": made.TOKENS, "input": json.dumps(c), "prompt": False, "tokenizer": path} for c in cases])
    for c, x in zip(cases, got):
        want = tokenizer.apply_chat_template(c["messages"], chat_template=template, return_dict=True, return_assistant_tokens_mask=True,
                                             tokenizer_kwargs={}, **made.TOKENS)
        if x.get("ids") != want["input_ids"] or x.get("mask") != want["assistant_masks"]:
            wrong += 1
            if wrong <= 3:
                print(f"  {c}\n    transformers {want['input_ids']} {want['assistant_masks']}\n    pq           {x!s:.600}")
    r.line(not wrong, f"ids and masks of {name}", f"{n} conversations, {wrong} differ")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--templates", type=int, default=4000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("bin_dir")
    p.add_argument("files", nargs="*")
    a = p.parse_args()
    report.quiet()
    warnings.simplefilter("ignore")  # Python's, of what templates are compiled to
    transformers.logging.set_verbosity(100)
    r, rng = report.Report(), random.Random(a.seed)
    with tempfile.TemporaryDirectory() as to:
        exe = build(a.bin_dir, to)
        compare(r, exe, "each construct", list(made.cases()))
        compare(r, exe, "random expressions", [("{{ " + expression(rng, 3) + " }}", made.LISTS, False) for _ in range(a.templates)])
        compare(r, exe, "random templates", [(body(rng, 2), made.LISTS, False) for _ in range(a.templates)])
        for name in ["gpt2", "llama3", "qwen2", "mistral", "llama2"]:
            r.guard(name, lambda r, name: masks(r, exe, name, os.path.join(report.TOP, f"testdata/tokenizers/{name}.json")))
        for path in [os.path.join(report.TOP, "../shared/models/stories260K/tokenizer.json")]:
            if os.path.exists(path):
                r.guard(path, lambda r, name: masks(r, exe, "stories260K", path))
        for path in a.files:
            with open(path, newline="") as f:
                template = f.read()
            compare(r, exe, os.path.basename(path), [(template, {"messages": m, **more}, prompt) for m in MESSAGES for prompt in (False, True)
                                                     for more in ({}, {"tools": TOOLS}, {"enable_thinking": False})])
    sys.exit(r.end())


if __name__ == "__main__":
    main()
