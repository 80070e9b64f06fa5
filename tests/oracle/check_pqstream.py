#!/usr/bin/env python3
"""Streams that pq wrote, read by pqstream.py: the tensors of the model.

    python tests/oracle/check_pqstream.py BUILD_BIN_DIR

One line a check; exit status 1 if any failed.
"""
import sys
import tempfile

import numpy as np
from safetensors import safe_open

from pqstream import Stream
from report import start

MODEL = "testdata/tiny-llama/model.safetensors"
# what is packed: floats of two sizes, codes, and what is mostly zeros
WAYS = {"f32": ["pq-convert"], "f16": ["pq-quantize", "-t", "f16"],
        "nf4": ["pq-quantize", "-t", "nf4", "--double-quant"],
        "sparse": ["pq-prune", "-s", "0.6"]}


def tensors_of(path):
    with safe_open(path, "np") as f:
        return {k: f.get_tensor(k) for k in f.keys()}


def check(report, what, tools, way, pack, folder):
    stream, plain = f"{folder}/x.pq", f"{folder}/x.safetensors"
    tools.run(*way, MODEL, "-o", plain)
    tools.run("pq-convert", *pack, plain, "-o", stream)
    with open(stream, "rb") as f:
        parts = [p for t in Stream(f.read()).tensors for p in t]
    want = tensors_of(plain)
    wrong = [p["name"] for p in parts if p["name"] not in want or
             np.ascontiguousarray(want[p["name"]]).tobytes() != bytes(p["data"])]
    report.line(not wrong and len(parts) == len(want), what, f"{len(parts)} parts, wrong: {wrong[:3]}")


def main():
    tools, report = start(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        for what, way in WAYS.items():
            report.guard(what, check, tools, way, [], folder)
            report.guard(f"{what} packed", check, tools, way, ["-z"], folder)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
