#!/usr/bin/env python3
"""Make testdata/safetensors/mutants.bin: small safetensors files, sound and broken, each with a verdict.

    python tests/oracle/make_mutants.py [--out FILE] [--count N]

The verdict is that of the reference library on bytes: 1 when safetensors.deserialize(bytes) returns, 0 when
it raises; 3 when it returns but the header names a tensor twice or has NUL in a name, which pq refuses by
design.  The same bytes are opened from a file with safe_open too: mutants where the two differ are left out.

mutants.bin is one zstd frame.  Inside, all integers little-endian: the 8 bytes "PQMUT001", u32 count, then
count times { u32 length, u8 verdict, length bytes }.
"""
import argparse
import collections
import json
import os
import struct
import tempfile

import zstandard
from safetensors import SafetensorError, deserialize, safe_open

from grammar import Dice

HERE = os.path.dirname(os.path.abspath(__file__))
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
        "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}
UNKNOWN = ["F128", "f32", "F32 ", "", "I4", "U4", "I2", "F4_E2M1", "F8", "float32", "F\\u0033\\u0032", "C128", "BF32",
           "F8_E4M3FN", "NF4", "Q8_0", "F32\\u0000"]
NUMBERS = ["-0", "-1", "0.0", "8.0", "1e3", "1E0", "01", "00", "+1", "0x10", "1.", ".5", "1e", "1e400", "-",
           "18446744073709551615", "18446744073709551616", "9223372036854775807", "9223372036854775808",
           "4294967296", "99999999999999999999999", "null", "true", "\"1\"", "[1]", "{}", "NaN", "Infinity",
           "1_000", "", "0e0", "-0.0", "1 2"]
JUNK = ["null", "true", "false", "1", "-1.5e-3", "\"x\"", "[]", "{}", "[1,[2,{\"a\":null}]]", "{\"dtype\":\"F32\"}",
        "\"\\ud83d\\ude00\"", "\"\\ud800\"", "\"\\udc00\"", "1e999", "-0", "[1,]", "{\"a\":1,}", "{\"a\":1,\"a\":2}",
        "tru", "'x'", "\"\\x\"", "\"\t\"", "\"\\u12\"", "01", "1.e1", "nan", "[", "{", "\"", "123456789012345678901234567890",
        "0.1e+10", "[[[[[[[[[[]]]]]]]]]]", "\"\\/\\b\\f\\n\\r\\t\\\\\"", "/*c*/1"]
SPACES = [" ", "\n", "\t", "\r", "  ", "\r\n\t ", "\v", "\f", "\u00a0", "\u2028", "\0", "//c\n", "/**/", "\ufeff"]
NAMES = ["", "a", "a.b.weight", "\u00e9", "\U0001f600", "\\u0061", "\\u00e9", "\\ud83d\\ude00", "\\ud83d", "\\ude00",
         "\\ude00\\ud83d", "\\u0000", "\\n", "\\/", "\\\"", "\\\\", "\\a", "\\u00zz", "\\U0061", "\\", "\t", "\x01", "\x7f",
         "__metadata__", "__metadata__ ", "__META__", "\\u005f_metadata__", "../x", "x" * 90, "\\ud800\\u0041",
         "\\uD83D\\uDE00", "\\udbff\\udfff", "\\uFFFF", "\ufffe", "dtype"]
METAS = ["{}", "null", "{\"format\":\"pt\"}", "{\"format\":1}", "{\"format\":null}", "{\"a\":\"1\",\"a\":\"2\"}",
         "[]", "\"x\"", "{\"a\":[]}", "{\"a\":{}}", "{\"\":\"\"}", "{\"a\":\"\\u0000\"}", "{\"a\":\"\\ud800\"}", "{\"\\ud800\":\"a\"}",
         "true", "1", "{\"a\":true}", "{1:\"a\"}", "{\"a\" \"b\"}", "{\"a\":\"b\",}", "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}",
         "{\"dtype\":\"F32\"}", "{\"a\":\"\\n\"}", "{\"a\":\"\n\"}", "{\"__metadata__\":\"x\"}", "{ \"a\" : \"b\" }"]
# Well and badly formed UTF-8: overlong, surrogate, past the end, lone continuation, cut.
UTF8 = [b"\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x9f\xbf",
        b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf",
        b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xfe", b"\x80", b"\xbf", b"\xc3",
        b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3(", b"\xe2(\xa1", b"\xef\xbf\xbe", b"\xef\xbb\xbf", b"\xf8\x88\x80\x80\x80"]
BIG = [1 << 31, 1 << 32, (1 << 32) + 1, 1 << 33, 1 << 60, 1 << 61, 1 << 62, (1 << 62) + 1, 1 << 63, (1 << 64) - 1,
       1 << 64, 4611686018427387904, 2305843009213693952, 3037000500]


class Tensor:
    """One header entry as text fragments, so that any of them can be spoilt."""

    def __init__(self, name, dtype, shape, begin, end):
        self.name, self.dtype = name, '"%s"' % dtype
        self.shape = "[" + ",".join(map(str, shape)) + "]"
        self.dims, self.begin, self.end = shape, begin, end
        self.offsets = f"[{begin},{end}]"
        self.fields = None       # an own list of (key, value) texts instead of the three

    def text(self):
        f = self.fields or [("dtype", self.dtype), ("shape", self.shape), ("data_offsets", self.offsets)]
        return '"%s":{%s}' % (self.name, ",".join('"%s":%s' % kv for kv in f))

    def items(self):
        return [("dtype", self.dtype), ("shape", self.shape), ("data_offsets", self.offsets)]


class File:
    """A small sound file; to_bytes() writes whatever was made of it."""

    def __init__(self, d):
        self.meta, self.tensors, at = None, [], 0
        for i in range(d.below(4) + (d.below(8) > 0)):
            dtype = d.pick(list(BITS))
            shape = [d.below(4) + (d.below(10) > 0) for _ in range(d.below(4))]
            n = 1
            for s in shape:
                n *= s
            if n * BITS[dtype] % 8:
                shape.append(4)
                n *= 4
            size = n * BITS[dtype] // 8
            if size > 64:
                shape, size, dtype = [size % 7], size % 7, "U8"
            self.tensors.append(Tensor(d.pick("abcdwxyz") + str(i), dtype, shape, at, at + size))
            at += size
        self.size = at
        if d.below(3) == 0:
            self.meta = d.pick(METAS[:3])
        if d.below(4) == 0:
            self.tensors = d.sample(self.tensors, len(self.tensors))
        self.head, self.tail, self.pad = b"", b"", b" "
        self.extra, self.length, self.json = 0, None, None

    def to_bytes(self):
        text = self.json
        if text is None:
            parts = ['"__metadata__":' + self.meta] if self.meta is not None else []
            text = "{" + ",".join(parts + [t.text() for t in self.tensors]) + "}"
        h = self.head + (text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")) + self.tail
        h += self.pad * (-len(h) % 8)
        n = len(h) if self.length is None else self.length
        body = bytes(i & 255 for i in range(max(0, self.size + self.extra)))
        return struct.pack("<Q", n & (1 << 64) - 1) + h + body

    def pick(self, d):
        return d.pick(self.tensors) if self.tensors else None


# ---- mutators: each spoils (or only changes) one thing of a File -----------------------

def sound(f, d):
    pass


def metadata(f, d):
    f.meta = d.pick(METAS + JUNK)


def metadata_twice(f, d):
    f.meta = d.pick(METAS[:4]) + ',"__metadata__":' + d.pick(METAS[:4])


def metadata_last(f, d):
    t = f.pick(d)
    if t:
        f.tensors[-1].fields = f.tensors[-1].items()
        f.tail = b""
        parts = [t.text() for t in f.tensors] + ['"__metadata__":' + d.pick(METAS)]
        f.json = "{" + ",".join(parts) + "}"


def metadata_deep(f, d):
    """Nesting in an unknown field, around the parser's limit of depth."""
    n = d.pick([2, 20, 120, 123, 124, 125, 126, 127, 128, 129, 130, 150])
    t = f.pick(d)
    if t:
        t.fields = t.items() + [("x", "[" * n + "]" * n)] if d.below(2) else \
            t.items() + [("x", '{"a":' * (n // 2) + "1" + "}" * (n // 2))]


def dtype(f, d):
    t = f.pick(d)
    if t:
        t.dtype = d.pick(['"%s"' % x for x in list(BITS) + UNKNOWN] + JUNK)


def number(f, d):
    """One of the numbers becomes something else."""
    t = f.pick(d)
    if not t:
        return
    value = d.pick(NUMBERS + [str(d.pick(BIG))])
    which = d.below(3)
    if which == 0:
        t.offsets = f"[{value},{t.end}]"
    elif which == 1:
        t.offsets = f"[{t.begin},{value}]"
    else:
        dims = [str(x) for x in t.dims] or [""]
        dims[d.below(len(dims))] = value
        t.shape = "[" + ",".join(dims) + "]"


def big_shape(f, d):
    """Products past 2^64, also with a zero before or after, and counts of bits past 2^64."""
    t = f.pick(d)
    if t:
        dims = [d.pick(BIG[:-4] + [0, 1, 2, 3, 8]) for _ in range(d.below(4) + 1)]
        t.shape = "[" + ",".join(map(str, dims)) + "]"
        if d.below(2):
            t.offsets = f"[{t.begin},{t.begin}]"


def zero_shape(f, d):
    """A tensor without bytes, at any point, with any rank."""
    rank = d.below(5) + 1
    dims = [d.below(3) for _ in range(rank)]
    dims[d.below(rank)] = 0
    at = d.below(f.size + 2)
    if d.below(2) and f.tensors:
        at = d.pick(f.tensors).end
    f.tensors.insert(d.below(len(f.tensors) + 1), Tensor("zero", d.pick(list(BITS)), dims, at, at))


def rank(f, d):
    t = f.pick(d)
    if t:
        ones = ["1"] * d.pick([1, 8, 40, 70])
        t.shape = "[" + ",".join(ones + [str(x) for x in t.dims]) + "]"


def shape_syntax(f, d):
    t = f.pick(d)
    if t:
        t.shape = d.pick(["[]", "{}", "null", "1", '"[1]"', "[1,]", "[,1]", "[1 2]", "[[1]]", "[1", "1]", "[-1]", "[1.0]", "[ 1 ]",
                          "[null]", "[true]", '["1"]', "[0]", "[0,0]", "{\"0\":1}", "[1,1,1]", "[\n1\n]"])


def offsets_syntax(f, d):
    t = f.pick(d)
    if t:
        b, e = t.begin, t.end
        t.offsets = d.pick([f"[{b}]", f"[{b},{e},{e}]", f"[{e},{b}]", f"[{b},{e},]", "[]", "null", f'{{"0":{b},"1":{e}}}', f"[[{b},{e}]]",
                            f'["{b}","{e}"]', f"[{b}.0,{e}]", f"[{b},{e}.0]", f"[ {b} , {e} ]", f"[{b};{e}]", f"[{b} {e}]", f"[0{b},{e}]",
                            f"[{b},{e}e0]", f"[-{b},{e}]", f"({b},{e})", f'"{b},{e}"', f"[{b},{e}", f"[{b},null]", f"{e}"])


def offsets_shift(f, d):
    """Holes, overlaps, ends past the buffer: the size may still be right."""
    t = f.pick(d)
    if t:
        k = d.pick([-8, -4, -2, -1, 1, 2, 4, 8, 1 << 20])
        b, e = [(t.begin + k, t.end + k), (t.begin, t.end + k), (t.begin + k, t.end), (t.end, t.begin)][d.below(4)]
        t.offsets = f"[{b},{e}]"


def offsets_swap(f, d):
    if len(f.tensors) > 1:
        a, b = d.sample(f.tensors, 2)
        a.offsets, b.offsets = b.offsets, a.offsets


def same_range(f, d):
    t = f.pick(d)
    if t:
        other = Tensor(d.pick(["twin", t.name]), "U8", [], t.begin, t.end)
        other.dtype, other.shape = t.dtype, t.shape
        f.tensors.insert(d.below(len(f.tensors) + 1), other)


def duplicate_name(f, d):
    """The same name twice, with the same range, a range of its own, or no bytes."""
    if len(f.tensors) > 1:
        a, b = d.sample(f.tensors, 2)
        b.name = a.name if d.below(3) else "".join("\\u%04x" % ord(c) for c in a.name)
        if d.below(3) == 0:
            b.offsets, b.shape, b.dtype = a.offsets, a.shape, a.dtype


def name(f, d):
    t = f.pick(d)
    if t:
        t.name = d.pick(NAMES) + (d.pick(NAMES) if d.below(3) == 0 else "")


def field(f, d):
    """A field is missing, twice, unknown, renamed, reordered."""
    t = f.pick(d)
    if not t:
        return
    items = t.items()
    what = d.below(7)
    if what == 0:
        items.pop(d.below(3))
    elif what == 1:
        items.insert(d.below(4), d.pick(items))
    elif what == 2:
        items.insert(d.below(4), (d.pick(["x", "", "DTYPE", "dtype ", "\\u0061", "__metadata__", "\\ud800"]), d.pick(JUNK)))
    elif what == 3:
        items = d.sample(items, 3)
    elif what == 4:
        i = d.below(3)
        items[i] = (d.pick(["Dtype", "shapes", "data_offset", "dt\\u0079pe", "\\u0073hape", "data_\\u006fffsets"]), items[i][1])
    elif what == 5:
        i = d.below(3)
        items[i] = (items[i][0], d.pick(JUNK))
    else:
        k = items[d.below(3)]
        items.append((k[0], d.pick(JUNK)))
    t.fields = items or [("x", "1")]


def entry(f, d):
    """A tensor's whole entry is another kind of JSON value."""
    if f.tensors:
        parts = [t.text() for t in f.tensors]
        i = d.below(len(parts))
        t = f.tensors[i]
        parts[i] = '"%s":%s' % (t.name, d.pick(JUNK + [f'[{t.dtype},{t.shape},{t.offsets}]', f'[{t.dtype},{t.shape}]']))
        f.json = "{" + ",".join(parts) + "}"


def top(f, d):
    """The header as a whole is another kind of JSON value, or has text around it."""
    f.json = d.pick(JUNK + ["", " ", "{}", "{ }", "{\n}", "{,}", "{}{}", "{}]", "[{}]", "{}x", "{} {}", "{\"a\"}", "{\"a\":}", "{:1}",
                            "{}\0", "\0{}", "{}//", "null", "{\"__metadata__\":{}}", "{\"__metadata__\":null}"])
    if d.below(3):
        f.size = 0


def whitespace(f, d):
    """White space, allowed and not, between tokens, before and after the object."""
    text = f.to_bytes()[8:]
    text = text[:text.rindex(b"}") + 1].decode()
    spots = [i for i, c in enumerate(text) if c in "{}[],:"]
    for _ in range(d.below(3) + 1):
        i = d.pick(spots) + d.below(2)
        text = text[:i] + d.pick(SPACES) + text[i:]
        spots = [i for i, c in enumerate(text) if c in "{}[],:"]
    f.json = text


def around(f, d):
    f.head = d.pick([b"", b" ", b"\n", b"\t\r\n", b"\xef\xbb\xbf", b"\0", b"x", b"//", b",", b"\xff\xfe"])
    f.tail = d.pick([b"", b" ", b"\n\n", b"\t", b"\0", b"x", b"}", b"{}", b",", b"\xc2\xa0", b"]", b"\v"])


def padding(f, d):
    f.pad = d.pick([b" ", b"\n", b"\t", b"\r", b"\0", b"x", b"}", b"\xff", b"\x0b"])


def header_length(f, d):
    n = len(f.to_bytes()) - 8 - f.size
    f.length = d.pick([0, 1, 2, 7, n - 1, n + 1, n - 8, n + 8, n + f.size, n + f.size + 1, 99999999, 100000000, 100000001,
                       1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1, (1 << 64) - 8, n | 1 << 32, n | 1 << 63, n << 8])


def trailing(f, d):
    f.extra = d.pick([-9, -8, -4, -2, -1, 1, 2, 4, 7, 8, 64])


def utf8(f, d):
    """Bytes of UTF-8, good and bad, inside a name, a value or a key."""
    bad = d.pick(UTF8)
    h = f.to_bytes()[8:]
    h = h[:h.rindex(b"}") + 1]
    spots = [i for i, c in enumerate(h) if c == 0x22]
    if spots:
        i = d.pick(spots) + d.below(2)
        f.json = h[:i] + bad + h[i:]


def escape(f, d):
    """An escape inside a string of the header."""
    h = f.to_bytes()[8:]
    h = h[:h.rindex(b"}") + 1]
    spots = [i + 1 for i, c in enumerate(h) if c == 0x22]
    if spots:
        i = d.pick(spots)
        f.json = h[:i] + d.pick(NAMES[5:27]).encode() + h[i:]


MUTATORS = [sound, metadata, metadata_twice, metadata_last, metadata_deep, dtype, number, number, big_shape, zero_shape, rank,
            shape_syntax, offsets_syntax, offsets_shift, offsets_swap, same_range, duplicate_name, name, name, field, field,
            entry, top, whitespace, whitespace, around, padding, header_length, trailing, utf8, escape]


# ---- mutations of bytes, after the structure ---------------------------------------

def flip_bit(b, d):
    i = d.below(len(b))
    return b[:i] + bytes([b[i] ^ 1 << d.below(8)]) + b[i + 1:]


def set_byte(b, d):
    i = 8 + d.below(max(1, len(b) - 8))
    return b[:i] + bytes([d.pick(list(b"{}[]\",:\\0 9-.eE\n\0\x1f\x7f\x80\xff"))]) + b[i + 1:]


def cut(b, d):
    return b[:d.below(len(b))]


def drop(b, d):
    """A byte of the header goes, and the length is put right."""
    n = int.from_bytes(b[:8], "little")
    if n == 0 or n > len(b) - 8:
        return b
    i = 8 + d.below(n)
    return struct.pack("<Q", n - 1) + b[8:i] + b[i + 1:]


def double(b, d):
    """A piece of the header is there twice, and the length is put right."""
    n = int.from_bytes(b[:8], "little")
    if n == 0 or n > len(b) - 8:
        return b
    i = 8 + d.below(n)
    k = min(d.below(12) + 1, 8 + n - i)
    return struct.pack("<Q", n + k) + b[8:i + k] + b[i:]


BYTES = [flip_bit, set_byte, cut, drop, double]


def deserialize_verdict(b):
    try:
        deserialize(b)
        return 1
    except SafetensorError:
        return 0


def file_verdict(b, path):
    with open(path, "wb") as f:
        f.write(b)
    try:
        with safe_open(path, "np") as f:
            list(f.keys())
        return 1
    except (SafetensorError, OSError, UnicodeEncodeError):
        return 0


def refused_by_design(b):
    """Of what the library accepts: is a tensor named twice, or is there NUL in a name?"""
    n = int.from_bytes(b[:8], "little")
    keys = []
    json.loads(b[8:8 + n].decode(), object_pairs_hook=lambda pairs: keys.append([k for k, _ in pairs]))
    names = [k for k in keys[-1] if k != "__metadata__"]      # the outermost object comes last
    return len(set(names)) < len(names) or any("\0" in k for k in names)


def mutants(count):
    """(what was done, bytes), no two alike; first every prefix and every bit of one sound file."""
    seen = set()
    f = File(Dice(5))
    f.tensors = [Tensor("a", "F32", [2], 0, 8), Tensor("b", "BF16", [1, 3], 8, 14)]
    f.size, f.meta = 14, '{"format":"pt"}'
    base = f.to_bytes()
    first = [("sound", base)] + [("prefix", base[:i]) for i in range(len(base))] + \
            [("bit", base[:i // 8] + bytes([base[i // 8] ^ 1 << i % 8]) + base[i // 8 + 1:])
             for i in range(8 * (len(base) - 14))]
    d, i = Dice(77), 0
    for what, b in first:
        if b not in seen:
            seen.add(b)
            yield what, b
    while len(seen) < count:
        f, m = File(d), MUTATORS[i % len(MUTATORS)]
        i += 1
        m(f, d)
        what = m.__name__
        if d.below(12) == 0:
            other = d.pick(MUTATORS)
            if f.json is None and f.meta is None or other in (trailing, padding, around):
                other(f, d)
                what += "+"
        b = f.to_bytes()
        if d.below(8) == 0 and b:
            byte = d.pick(BYTES)
            b, what = byte(b, d), what + "/" + byte.__name__
        if len(b) > 900 or b in seen:
            continue
        seen.add(b)
        yield what, b


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", default=os.path.join(HERE, "../../testdata/safetensors/mutants.bin"))
    p.add_argument("--count", type=int, default=12000)
    a = p.parse_args()
    raw, tally, differ = [], collections.Counter(), []
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "m.safetensors")
        for i, (what, b) in enumerate(mutants(a.count)):
            v = deserialize_verdict(b)
            if file_verdict(b, path) != v:
                differ.append((what, b))
                continue
            if v and refused_by_design(b):
                v = 3
            tally[what.split("/")[0].rstrip("+"), v] += 1
            raw.append(struct.pack("<IB", len(b), v) + b)
    blob = b"PQMUT001" + struct.pack("<I", len(raw)) + b"".join(raw)
    os.makedirs(os.path.dirname(a.out), exist_ok=True)
    packed = zstandard.ZstdCompressor(level=19).compress(blob)
    with open(a.out, "wb") as f:
        f.write(packed)
    for kind in sorted({k for k, _ in tally}):
        print(f"{kind:16} accepted {tally[kind, 1]:5} rejected {tally[kind, 0]:5} "
              f"accepted but not by pq {tally[kind, 3]:5}")
    accepted = sum(n for (_, v), n in tally.items() if v)
    print(f"{len(raw)} mutants, {accepted} accepted, {len(blob)} bytes, {len(packed)} compressed; "
          f"{len(differ)} left out because deserialize and safe_open disagree")
    for what, b in differ[:5]:
        print("  ", what, b)


if __name__ == "__main__":
    main()
