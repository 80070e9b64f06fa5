#!/usr/bin/env python3
"""Load what pq-extract wrote in PEFT and compare with the tuned model.

    HF_HUB_OFFLINE=1 python tests/oracle/check_extract.py BUILD_BIN_DIR

The models are those of testdata/extract and the bases that they were tuned
from; every difference has full rank in the adapters, so that the logits are
those of the tuned model, as the adapter runs and merged.  One line a check;
exit status 1 if any failed.
"""
import os
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                    "../../testdata")
PAIRS = {"rank3": "base-llama", "mixed": "base-llama", "conv1d": "base-gpt2",
         "tied": "base-llama-tied"}
# PEFT adds the changes of a table and of its twin, the head, to one tensor
MERGES_TWICE = {("tied", True)}


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def check(bin_dir, name, goal, embeddings, folder):
    base, tuned = f"{DATA}/peft/{PAIRS[name]}", f"{DATA}/extract/{name}"
    adapter = f"{folder}/{name}-{embeddings}-{goal[1]}"
    subprocess.run([f"{bin_dir}/pq-extract", base, tuned, *goal,
                    *(["--embeddings"] if embeddings else []),
                    "-o", adapter + "/"], check=True)
    want = load(tuned)
    ids = torch.arange(12).reshape(2, 6) % want.config.vocab_size
    want = want(ids).logits
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(load(base), adapter).eval()
    missing = [str(w.message) for w in said if "missing" in str(w.message)]
    off = [(model(ids).logits - want).abs().max().item()]
    if (name, embeddings) not in MERGES_TWICE:
        merged = model.merge_and_unload()
        off.append((merged(ids).logits - want).abs().max().item())
    ok = max(off) < 1e-6 and not missing
    print("ok  " if ok else "FAIL", os.path.basename(adapter),
          *(f"{x:.2g}" for x in off), *missing, flush=True)
    return ok


def main():
    bin_dir = sys.argv[1] if len(sys.argv) > 1 else "build/bin"
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        for name in PAIRS:
            for embeddings in (False, True):
                for goal in (("--rank", "16"), ("--max-error", "1e-5")):
                    ok &= check(bin_dir, name, goal, embeddings, folder)
    sys.exit(not ok)


if __name__ == "__main__":
    main()
