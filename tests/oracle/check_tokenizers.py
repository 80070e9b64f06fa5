#!/usr/bin/env python3
"""Compares pq's tokenizers with `tokenizers` and `sentencepiece` on random
strings, for every tokenizer of make_tokenizers.py and those named.

    check_tokenizers.py [--strings 3000] [--seed 1] BIN [tokenizer.json ...]

BIN is build/bin; a small program is compiled against the libpq.a beside it.
"""
import argparse
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import (Regex, Tokenizer, decoders, normalizers,
                        pre_tokenizers)

sys.path.insert(0, os.path.dirname(__file__))
import make_tokenizers as made  # noqa: E402

POOLS = [
    " abcdefghijklmnopqrstuvwxyz", " aab", "ab \n\t\r", "0123456789 .,-",
    " ABCabc'sStTrReEvVmMlLdD", "{}[]()<>|&;:=+-*/\\\"'`~!@#$%^_?.,",
    "éèüñçøåßŁİıΣσςÅ", "\u0300\u0301\u0323\u0302\u030a\u0345\u0327aeos ",
    "Приветмир ", "日本語中文한국어각ㅎㅏㄴ ", "हिन्दीไทยதமிழ் ", "שלוםمرحبا١٢٣ ",
    "🦙👩‍👧🇫🇷👍🏽☃️ ", "\u00a0\u2003\u3000\u200b\u180e\u2028\u0085\u1680 x",
    "▁ a▁", "ﬁ①½Ⅷ²㍿ＡｶﾞÅ", "\u0000\u0001\u007f\ufeff\ufffd\ue000",
]
SNIPPETS = ["<s>", "</s>", "<mask>", "<word>", "<MASK>", "the cat", "▁▁the",
            "<unk>", "abc", "'s", "'LL", " the", "the ", "  ", "\r\n", "once",
            "aaa", "<0x41>", "ab"]


PATTERNS = [r"\w+", r"[^\w\s]+", r"\s", r"[\S]+", r"\W", r"^a|b$", r"a*",
            r"(?=b)", r"(?<=a)\s+", r"[\p{Han}a]+", r"\p{^L}+", r"\d{2,}|[.]",
            r"(?i:ab|'s)", r"\P{L}"]
BEHAVIORS = ["removed", "isolated", "merged_with_previous",
             "merged_with_next", "contiguous"]
NORMALIZERS = [
    normalizers.NFC(), normalizers.NFD(), normalizers.NFKC(),
    normalizers.NFKD(), normalizers.Lowercase(), normalizers.StripAccents(),
    normalizers.Nmt(), normalizers.Strip(), normalizers.Prepend("▁"),
    normalizers.Replace(Regex(r"\s+"), " "), normalizers.Replace("aa", "b"),
]


def variants(r):
    """Small parts of all kinds, put together at random."""
    base = made.byte_bpe(300)
    for i in range(40):
        t = made.bpe_copy(base)
        t.normalizer = normalizers.Sequence(r.sample(NORMALIZERS,
                                                     r.randrange(3)))
        steps = [pre_tokenizers.Split(Regex(r.choice(PATTERNS)),
                                      r.choice(BEHAVIORS), r.random() < 0.3)
                 for _ in range(r.randrange(1, 3))]
        steps.append(r.choice([
            pre_tokenizers.Punctuation(r.choice(BEHAVIORS)),
            pre_tokenizers.Digits(r.random() < 0.5),
            pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Whitespace(),
            pre_tokenizers.Metaspace(prepend_scheme="always")]))
        steps.append(pre_tokenizers.ByteLevel(
            add_prefix_space=r.random() < 0.5, use_regex=r.random() < 0.5))
        t.pre_tokenizer = pre_tokenizers.Sequence(steps)
        t.decoder = decoders.ByteLevel()
        yield f"variant-{i}", t


def random_char(r):
    while True:
        c = r.choice([r.randrange(0x80, 0x3000), r.randrange(0x10000),
                      r.randrange(0x110000)])
        # what Unicode's later versions assigned is classed as the libraries
        # like: only characters that all know
        if not 0xd800 <= c < 0xe000 and unicodedata.ucd_3_2_0.category(
                chr(c)) != "Cn":
            return chr(c)


def random_text(r, words):
    out = []
    for _ in range(r.randrange(1, 9)):
        kind = r.random()
        if kind < 0.3:
            out.append(r.choice(words))
        elif kind < 0.5:
            out.append(r.choice(SNIPPETS))
        elif kind < 0.6:
            out.append("".join(random_char(r) for _ in range(r.randrange(4))))
        else:
            pool = r.choice(POOLS)
            out.append("".join(r.choice(pool)
                               for _ in range(r.randrange(1, 24))))
    return r.choice(["", " "]).join(out)


def ours(program, path, flags, texts):
    data = b"".join(struct.pack("<I", len(b)) + b
                    for b in (t.encode() for t in texts))
    p = subprocess.run([program, path, str(flags)], input=data,
                       stdout=subprocess.PIPE, check=False)
    if p.returncode:
        sys.exit(f"{path}: exit {p.returncode}")
    for line in p.stdout.decode().splitlines():
        ids, plain, skip = line.split("\t")
        yield ids, plain, skip


def compare(name, program, path, ref, texts):
    bad = 0
    for bounds in (False, True):
        for text, got in zip(texts, ours(program, path, int(bounds), texts)):
            ids = ref.encode(text, bounds)
            want = [" ".join(map(str, ids)),
                    None if ref.spm else ref.decode(ids, False),
                    ref.decode(ids, True)]
            if got[0] != want[0]:
                fault = "ids"
            elif want[1] is not None and bytes.fromhex(got[1]).decode(
                    errors="replace") != want[1]:
                fault = "text"
            elif bytes.fromhex(got[2]).decode(errors="replace") != want[2]:
                fault = "skipped"
            else:
                continue
            bad += 1
            if bad <= 3:
                print(f"{name}: {fault} of {text!r}\n  got  {got}\n"
                      f"  want {want}")
    print(f"{name}: {2 * len(texts)} strings, {bad} differ")
    return bad


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("bin")
    p.add_argument("files", nargs="*")
    p.add_argument("--strings", type=int, default=3000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only")
    a = p.parse_args()
    r = random.Random(a.seed)
    words = [w for line in made.corpus() for w in line.split(" ")]
    texts = made.TEXTS + [random_text(r, words) for _ in range(a.strings)]
    files = [made.ROOT + "/testdata/tiny-llama/tokenizer.json", *a.files]
    with tempfile.TemporaryDirectory() as d:
        program = os.path.join(d, "tokenize")
        subprocess.run(
            ["cc", "-std=c11", "-O2", "-I" + made.ROOT + "/lib", "-o", program,
             os.path.join(made.HERE, "tokenize.c"), os.path.join(a.bin, "../lib/libpq.a"),
             *"-lcjson -lzstd -lxxhash -lpcre2-8 -lutf8proc -lm -pthread"
             .split()], check=True)
        bad = 0
        for name, t in [*made.build().items(), *variants(r)]:
            if a.only and name != a.only:
                continue
            path = os.path.join(d, name)
            with open(path, "wb") as f:
                f.write(t if isinstance(t, bytes) else t.to_str().encode())
            bad += compare(name, program, path, made.Reference(t), texts)
        for path in files if not a.only else []:
            ref = made.Reference(Tokenizer.from_file(path))
            bad += compare(path, program, path, ref, texts)
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
