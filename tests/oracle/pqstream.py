#!/usr/bin/env python3
"""A second reader of .pq streams, written from man/pq-stream.5 alone.

    pqstream.py list FILE              one line a part: name dtype shape bytes
    pqstream.py verify FILE            nothing, or why not and status 1
    pqstream.py extract FILE NAME      the bytes of a part, on standard output

It reads the whole file into memory and is in no hurry.
"""
import json
import struct
import sys

import numpy as np
import xxhash
import zstandard

BITS = {"U64": 64, "I64": 64, "F64": 64, "C64": 64, "F32": 32, "U32": 32,
        "I32": 32, "BF16": 16, "F16": 16, "U16": 16, "I16": 16,
        "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F8_E8M0": 8, "F8_E4M3": 8,
        "F8_E5M2": 8, "I8": 8, "U8": 8, "F6_E3M2": 6, "F6_E2M3": 6, "F4": 4,
        "BOOL": 8}
ROTATED = {"F32", "C64", "BF16", "F16"}
KNOWN = {b"CTLG", b"META", b"PROV", b"TENS", b"INDX"}
MORE, PACKED, SPARSE, RUN = 1, 2, 4, 4 << 20


class Bad(Exception):
    """The stream breaks a rule."""


def need(condition, message):
    if not condition:
        raise Bad(message)


def xxh3(data):
    return xxhash.xxh3_64_intdigest(data)


def no_duplicates(pairs):
    need(len(dict(pairs)) == len(pairs), "a key stands twice")
    return dict(pairs)


def parse(data):
    try:
        return json.loads(data.decode("utf-8"),
                          object_pairs_hook=no_duplicates)
    except ValueError as e:
        raise Bad(f"JSON: {e}") from e


def width(dtype):
    return 4 if dtype == "C64" else max(1, BITS[dtype] // 8)


def join(planes, dtype):
    """Byte planes back to elements."""
    w = width(dtype)
    if w == 1:
        return planes
    n = len(planes) // w
    raw = np.frombuffer(planes, np.uint8).reshape(w, n).T.copy()
    if dtype in ROTATED:
        v = raw.view(f"<u{w}")
        bits = w * 8
        raw = (v >> v.dtype.type(1)) | (v << v.dtype.type(bits - 1))
    return raw.tobytes()


def open_section(data, size):
    """A map or a plane of a packed record, from its frame if it is one."""
    need(len(data) <= size, "a section is too long")
    if len(data) == size:
        return data
    try:
        need(zstandard.frame_content_size(data) == size, "frame size")
        d = zstandard.ZstdDecompressor().decompressobj()
        opened = d.decompress(data)
        need(d.eof and not d.unused_data, "not one frame")
    except zstandard.ZstdError as e:
        raise Bad(f"zstd: {e}") from e
    need(len(opened) == size, "frame length")
    return opened


def unpack(body, dtype, raw, sparse):
    """The body of a packed record to its elements."""
    w = width(dtype)
    count = values = raw // w
    front = w + (2 if sparse else 0)
    need(len(body) >= 4 * front, "a packed record is too short")
    sizes, at = list(struct.unpack_from(f"<{front}I", body)), 4 * front
    wants = [values] * w
    if sparse:
        values = sizes.pop(0)
        wants = [(count + 7) // 8] + [values] * w
        need(values <= count and sum(wants) <= raw, "too many values")
    need(at + sum(sizes) == len(body), "sections and body differ in length")
    sections = []
    for size, want in zip(sizes, wants):
        sections.append(open_section(body[at:at + size], want))
        at += size
    if not sparse:
        return join(b"".join(sections), dtype)
    bits = np.unpackbits(np.frombuffer(sections[0], np.uint8),
                         bitorder="little")
    need(bits.sum() == values and not bits[count:].any(), "map and values")
    out = np.zeros((count, w), np.uint8)
    packed = join(b"".join(sections[1:]), dtype)
    out[bits[:count].astype(bool)] = np.frombuffer(
        packed, np.uint8).reshape(values, w)
    return out.tobytes()


def part_bytes(p):
    bits = BITS[p["dtype"]]
    for d in p["shape"]:
        need(isinstance(d, int) and d >= 0, "a dimension is no size")
        bits *= d
    need(bits % 8 == 0 and bits < 1 << 63, "a size is impossible")
    return bits // 8


class Stream:
    def __init__(self, data):
        self.data, self.at = data, 64
        self.entries, self.sums = b"", b""
        self.files, self.metadata, self.prov, self.optional = {}, {}, [], []
        self.header()
        kind, number, _, _, _, body = self.record()
        need(kind == b"CTLG", "the catalogue does not come first")
        self.catalogue(parse(body))
        self.front()
        self.bodies()
        self.tail()

    def take(self, n):
        need(self.at + n <= len(self.data), "the stream is cut off")
        self.at += n
        return self.data[self.at - n:self.at]

    def zeros(self, n):
        need(not any(self.take(n)), "padding is not zero")

    def header(self):
        h = self.data[:64]
        need(len(h) == 64, "the stream is cut off")
        need(h[:8] == b"\x89PQT\r\n\x1a\n", "not a .pq stream")
        major, _, incompat, _ = struct.unpack_from("<HHII", h, 8)
        need(major == 1 and incompat == 0, "a later version")
        need(not any(h[20:56]), "reserved bytes are set")
        need(struct.unpack_from("<Q", h, 56)[0] == xxh3(h[:56]), "header sum")

    def peek(self):
        return self.data[self.at:self.at + 4]

    def upstream(self, n):
        raise Bad("upstream " + self.take(n).decode("utf-8", "replace"))

    def record(self):
        start = self.at
        p = self.take(64)
        (kind, flags, n_head, n_body, seq, number, raw, head_sum,
         own) = struct.unpack("<4sIQQQQQQQ", p)
        need(own == xxh3(p[:56]), "a prefix is damaged")
        need(kind.isalpha(), "a type is no name")
        if kind == b"ABRT":
            self.upstream(n_body)
        need(kind in KNOWN or kind[:1].islower(), f"unknown type {kind}")
        need(seq == len(self.entries) // 64, "records are out of order")
        need(flags & ~7 == 0, "unknown flags")
        need(flags & PACKED or not flags & SPARSE, "sparse, but not packed")
        need(kind == b"TENS" or (flags, number) == (0, 0), "a tensor's fields")
        need(flags & PACKED or raw == n_body, "two lengths")
        need(not flags & PACKED or n_body < raw <= RUN, "compressed length")
        need(n_head <= 65536, "the head is too long")
        self.head = self.take(n_head)
        need(xxh3(self.head) == head_sum, "head sum")
        self.zeros(-n_head % 64)
        need(kind == b"META" or kind[:1].islower() or n_head == 0, "a head")
        body_at = self.at
        body = self.take(n_body)
        self.zeros(-(n_body + 8) % 64)
        body_sum = self.take(8)
        if struct.unpack("<Q", body_sum)[0] != xxh3(body):
            if self.peek() == b"ABRT":
                self.upstream(struct.unpack("<Q", self.take(64)[16:24])[0])
            raise Bad("a body's checksum is wrong")
        self.sums += body_sum
        self.entries += struct.pack("<4sIQQQQQ", kind, flags, start, body_at,
                                    n_body, raw, number) + body_sum + bytes(8)
        return kind, number, flags, raw, start, body

    def catalogue(self, c):
        need(isinstance(c, dict) and "tensors" in c, "no tensors")
        self.shards, self.tensors = c.get("files", []), []
        for t in c["tensors"]:
            self.tensors.append(t.get("parts", [t]))
            for p in self.tensors[-1]:
                p["bytes"] = part_bytes(p)
        names = [p["name"] for t in self.tensors for p in t]
        need(len(set(names)) == len(names), "a name stands twice")

    def front(self):
        while self.peek() in (b"META", b"PROV") or self.peek()[:1].islower():
            kind, _, _, _, _, body = self.record()
            if kind == b"PROV":
                self.prov.append(body.decode("utf-8"))
            elif kind == b"META":
                head = parse(self.head)
                need(head["kind"] in ("file", "metadata"), "unknown META")
                if head["kind"] == "file":
                    self.files[head["name"]] = body
                else:
                    self.metadata = parse(body)
            else:
                self.optional.append((kind, self.head, body))

    def bodies(self):
        for i, parts in enumerate(self.tensors):
            want = sum(p["bytes"] for p in parts)
            data, more = b"", True
            while more:
                kind, number, flags, raw, _, body = self.record()
                need(kind == b"TENS" and number == i, "not the next tensor")
                if flags & PACKED:
                    body = self.unpack(parts, len(data), raw, body, flags)
                data += body
                more = flags & MORE
                need(len(data) < want if more and raw else
                     not more and len(data) == want, "a tensor's size")
            at = 0
            for p in parts:
                p["data"] = data[at:at + p["bytes"]]
                at += p["bytes"]

    @staticmethod
    def unpack(parts, at, raw, body, flags):
        for p in parts:
            if at < p["bytes"]:
                break
            at -= p["bytes"]
        w = width(p["dtype"])
        need(at + raw <= p["bytes"] and at % w == 0 and raw % w == 0,
             "a compressed record crosses parts or elements")
        return unpack(body, p["dtype"], raw, flags & SPARSE)

    def tail(self):
        index_at, entries = self.at, self.entries
        need(self.record()[0] == b"INDX", "no index")
        body_at = index_at + 64
        need(self.data[body_at:body_at + len(entries)] == entries and
             struct.unpack_from("<Q", self.data, index_at + 16)[0] ==
             len(entries), "the index is of other records")
        e = self.take(64)
        need(e == struct.pack("<4sIQQQQ16x", b"END.", 0, index_at, self.at,
                              len(self.entries) // 64, xxh3(self.sums)) +
             struct.pack("<Q", xxh3(e[:56])), "the end record is wrong")
        need(self.at == len(self.data), "bytes follow")


def main(argv):
    if len(argv) < 3 or argv[1] not in ("list", "verify", "extract"):
        sys.exit(__doc__)
    try:
        with open(argv[2], "rb") as f:
            s = Stream(f.read())
    except Bad as e:
        sys.exit(f"{argv[2]}: {e}")
    for p in (p for t in s.tensors for p in t):
        if argv[1] == "list":
            print(p["name"], p["dtype"], p["shape"], p["bytes"])
        elif argv[1] == "extract" and p["name"] == argv[3]:
            sys.stdout.buffer.write(p["data"])


if __name__ == "__main__":
    main(sys.argv)
