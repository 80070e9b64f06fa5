#!/usr/bin/env python3
"""Load the adapters that pq wrote in PEFT, and the models it merged in
transformers, and compare them with the goldens of testdata.

    HF_HUB_OFFLINE=1 python tests/oracle/check_adapters.py BUILD_BIN_DIR

One line a check; exit status 1 if any failed.
"""
import json
import os
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from report import TOP, start

EXACT = 1e-5        # relative error of what should lose nothing but rounding


def manifest(folder):
    with open(f"{TOP}/testdata/{folder}/manifest.json", encoding="utf-8") as f:
        return json.load(f)


# ---- adapters in PEFT -----------------------------------------------------------

def load_base(base):
    return AutoModelForCausalLM.from_pretrained(f"{TOP}/{base}").eval()


def matrix(name, tensor, base):
    """As PEFT thinks of it: GPT-2's Conv1D weights are stored [in][out]."""
    t = tensor.double().numpy()
    return t.T if "gpt2" in base and t.ndim == 2 and ".h." in name else t


def logits(model):
    with torch.no_grad():
        return model(torch.arange(6)[None] * 5 % model.config.vocab_size).logits


def changes(base, adapter):
    """tensor -> what PEFT's merge of the adapter adds to it; float64.  And
    the logits of the model with the adapter beside it, and with it merged."""
    before = load_base(base)
    model = PeftModel.from_pretrained(load_base(base), adapter).eval()
    beside = logits(model)
    model = model.merge_and_unload()
    merged = logits(model)
    old, new = before.state_dict(), model.state_dict()
    delta = {k: matrix(k, new[k].double() - v.double(), base)
             for k, v in old.items() if not torch.equal(new[k], v)}
    return delta, beside, merged


def relative(a, b):
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def same_logits(report, what, a, b, limit=1e-4):
    worst = float((a - b).abs().max() / b.abs().max())
    report.line(worst < limit, what + " logits", f"differ by {worst:.2g}")


# ---- sums ------------------------------------------------------------------------

def operands_of(entry):
    return [f"{path}:{w!r}" for path, w in entry["operands"].items()]


def options_of(entry):
    out = [] if entry["method"] == "linear" else ["--method", entry["method"]]
    for k, v in entry["options"].items():
        if v is True:
            out.append(f"--{k}")
        elif v is False:
            out.append(f"--no-{k}")
        else:
            out += [f"--{k}", str(v)]
    return out


def golden(entry):
    return {k: v.double().numpy() for k, v in load_file(
        f"{TOP}/testdata/adapters/{entry['file']}").items()}


def check_sum(report, what, tools, entry, rank):
    """With a rank the error is that of the best one, tensor by tensor."""
    base = "testdata/peft/base-" + ("gpt2" if "conv1d" in what else "llama")
    with tempfile.TemporaryDirectory() as tmp:
        options = options_of(entry) + (["--rank", str(rank)] if rank else [])
        tools.run("pq-merge", *options, *operands_of(entry), "-o", tmp + "/")
        delta, beside, merged = changes(base, tmp)
    wanted = golden(entry)
    worst = 0.0
    for k, d in wanted.items():
        best = entry["best_errors"].get(k, [])
        allowed = best[rank] if rank and rank < len(best) else 0.0
        error = relative(delta.get(k, np.zeros(d.shape)), d)
        worst = max(worst, error - 1.001 * allowed)
    extra = sorted(delta.keys() - wanted.keys())
    report.line(worst < EXACT and not extra, what + " delta",
                f"{worst:.2g} above the best, no place {extra[:2]}")
    same_logits(report, what, beside, merged)


def check_fedavg(report, what, tools, entry):
    with tempfile.TemporaryDirectory() as tmp:
        tools.run("pq-merge", *options_of(entry), *operands_of(entry),
                  "-o", tmp + "/")
        ours = load_file(f"{tmp}/adapter_model.safetensors")
        changes("testdata/peft/base-llama", tmp)            # it loads
    wanted = golden(entry)
    same = ours.keys() == wanted.keys() and all(
        relative(ours[k].double().numpy(), v) < EXACT
        for k, v in wanted.items())
    report.line(same, what, f"{len(wanted)} factors")


def check_dare(report, what, tools):
    """Whatever was drawn, an element of the sum of one adapter is 0 or what
    it was over the density; and about so many are left."""
    one = "testdata/adapters/party-1"
    with tempfile.TemporaryDirectory() as tmp:
        tools.run("pq-merge", "--method", "dare_linear", "--density", "0.5",
                  "--seed", "7", "--rank", "24", f"{one}:0.5", "-o", tmp + "/")
        delta, _, _ = changes("testdata/peft/base-llama", tmp)
    full, _, _ = changes("testdata/peft/base-llama", f"{TOP}/{one}")
    kept = of = 0
    worst = 0.0
    for k, d in full.items():
        ratio = delta.get(k, np.zeros(d.shape))
        scale = np.abs(d).max()
        off = np.minimum(np.abs(ratio), np.abs(ratio - d))
        worst = max(worst, float(off.max() / scale))
        kept += int((np.abs(ratio - d) < np.abs(ratio)).sum())
        of += d.size
    report.line(worst < 1e-4 and 0.42 < kept / of < 0.58, what,
                f"{kept} of {of} kept, off by {worst:.2g}")


def check_sums(report, tools):
    for name, entry in manifest("adapters").items():
        if entry.get("method") == "fedavg":
            report.guard(name, check_fedavg, tools, entry)
        elif "operands" in entry:
            # what is not low-rank is whole at the full rank only
            full = 24 if entry["method"] == "ties" else 0
            report.guard(name, check_sum, tools, entry, full)
            report.guard(name + " rank 4", check_sum, tools, entry, 4)
    report.guard("dare", check_dare, tools)


# ---- adapters folded into a model -------------------------------------------------

def check_fold(report, what, tools, base, adapter):
    with tempfile.TemporaryDirectory() as tmp:
        tools.run("pq-merge", base, adapter, "-o", tmp + "/")
        ours = load_file(f"{tmp}/model.safetensors")
        load_base(os.path.relpath(tmp, TOP))
    wanted = load_file(f"{TOP}/{adapter}/merged.safetensors")
    errors = {k: float((ours[k].double() - v.double()).abs().max())
              if k in ours else np.inf for k, v in wanted.items()}
    worst = max(errors, key=errors.get)
    report.line(errors[worst] < 1e-6, what, f"{errors[worst]:.2g} in {worst}")


def check_folds(report, tools):
    here = "testdata/adapters"
    for name, entry in manifest("adapters").items():
        if "base" in entry:
            report.guard(f"fold {name}", check_fold, tools, entry["base"],
                  f"{here}/{name}")
    for kind in ("qwen3", "mixtral", "gpt-oss"):
        for age in ("new", "old"):
            report.guard(f"fold moe-{age}-{kind}", check_fold, tools,
                  f"{here}/moe-base-{kind}", f"{here}/moe-{age}-{kind}")


# ---- extraction -------------------------------------------------------------------

def is_linear(name):
    """Does pq-extract have factors for it, without --embeddings?"""
    parts = name.split(".")
    return (parts[-1] == "weight" and "norm" not in name
            and parts[-2] not in ("embed_tokens", "wte", "wpe"))


def best_error(facts, rank):
    return float(np.sqrt(np.sum(np.square(facts["singular"][rank:]))))


def compare_extract(report, what, base, tuned, folder, facts, rank_of):
    """Each linear delta within 1% of the best of its rank, all else exact;
    and where all is exact, PEFT's logits are those of the tuned model."""
    delta, beside, merged = changes(base, folder)
    worst, where, lost = 0.0, "", 0.0
    before, after = (load_base(m).state_dict() for m in (base, tuned))
    for k, f in facts.items():
        wanted = matrix(k, after[k].double() - before[k].double(), base)
        best = best_error(f, rank_of(k, f)) if is_linear(k) else 0.0
        lost = max(lost, best)
        over = relative(delta.get(k, np.zeros(wanted.shape)), wanted)
        over -= 1.01 * best
        if over > worst:
            worst, where = over, k
    report.line(worst < EXACT, what + " delta",
                f"{worst:.2g} above the best {where}")
    same_logits(report, what, beside,
                merged if lost else logits(load_base(tuned)))


def rank_for_energy(facts, energy):
    squares = np.cumsum(np.square(facts["singular"]))
    return int(np.searchsorted(squares, energy * squares[-1] - 1e-9) + 1)


def check_extract(report, what, tools, entry, options, rank_of):
    with tempfile.TemporaryDirectory() as tmp:
        tools.run("pq-extract", entry["base"], entry["tuned"], *options,
                  "-o", tmp + "/")
        compare_extract(report, what, entry["base"], entry["tuned"], tmp,
                        entry["tensors"], rank_of)


def check_resize(report, what, tools, entry, command, rank):
    """Another adapter that says nearly the same."""
    base = "testdata/peft/base-" + ("gpt2" if "conv1d" in what else "llama")
    with tempfile.TemporaryDirectory() as tmp:
        tools.run("pq-extract", *command, "--rank", str(rank), "-o", tmp + "/")
        delta, beside, merged = changes(base, tmp)
    wanted, _, _ = changes(base, f"{TOP}/{entry['adapter']}")
    if os.path.exists(f"{TOP}/{entry['adapter']}/merged.safetensors"):
        old = load_base(base).state_dict()
        wanted = {k: matrix(k, v.double() - old[k].double(), base)
                  for k, v in load_file(f"{TOP}/{entry['adapter']}/"
                                        "merged.safetensors").items()}
    over = max(relative(delta.get(k, np.zeros(d.shape)), d)
               - 1.01 * best_error(entry["tensors"][k], rank)
               for k, d in wanted.items())
    report.line(over < EXACT, what + " delta", f"{over:.2g} above the best")
    same_logits(report, what, beside, merged)


EXTRACT = [
    ("rank3", ["--rank", "3"], lambda k, f: 3),
    ("rank3", ["--rank", "2"], lambda k, f: 2),
    ("rank3", ["--energy", "0.9"], lambda k, f: rank_for_energy(f, 0.9)),
    ("mixed", ["--rank", "3"], lambda k, f: 3),
    ("mixed", ["--rank", "3", "--embeddings"], lambda k, f: 3),
    ("mixed", ["--max-error", "1e-5"], lambda k, f: 16),
    ("full", ["--rank", "4"], lambda k, f: 4),
    ("conv1d", ["--rank", "2"], lambda k, f: 2),
    ("tied", ["--rank", "3"], lambda k, f: 3),
]


def check_extracts(report, tools):
    facts = manifest("extract")
    for name, options, rank_of in EXTRACT:
        report.guard(f"extract {name} {' '.join(options)}", check_extract,
              tools, facts[f"pairs.{name}"], options, rank_of)
    for key, entry in facts.items():
        kind, name = key.split(".", 1)
        adapter = entry.get("adapter")
        if kind == "resize":
            report.guard(f"resize {name}", check_resize, tools, entry,
                  ["--resize", adapter], 3)
        elif kind == "plain":
            report.guard(f"plain {name}", check_resize, tools, entry,
                  ["--plain", adapter, entry["base"]], 8)


# ---- models merged by recipe or method ----------------------------------------

def check_model(report, what, tools, arguments, golden_file):
    """It loads in transformers, with no tensor missing or too many."""
    with tempfile.TemporaryDirectory() as tmp:
        tools.run("pq-merge", *arguments, "-o", tmp + "/")
        _, info = AutoModelForCausalLM.from_pretrained(
            tmp, output_loading_info=True)
        ours = load_file(f"{tmp}/model.safetensors")
    bad = [k for k in ("missing_keys", "unexpected_keys", "mismatched_keys")
           if info.get(k)]
    error = max(float((ours[k].double() - v.double()).abs().max())
                for k, v in load_file(golden_file).items())
    report.line(not bad and error < 1e-6, what, f"{error:.2g} {bad}")


def check_models(report, tools):
    here = "testdata/blend"
    for name, entry in manifest("blend").items():
        if name in ("linear", "task_arithmetic", "slerp-0.3"):
            arguments = ["--method", entry["method"]]
            if entry["base"]:
                arguments += ["--base", f"{here}/{entry['base']}"]
            for k, v in entry["parameters"].items():
                arguments += [f"--{k}", str(v)]
            arguments += [f"{here}/{m}" + (f":{p['weight']}" if p else "")
                          for m, p in entry["models"].items()]
        elif name == "recipe-stack":
            arguments = ["--recipe", f"{here}/{entry['recipe']}"]
        else:
            continue
        report.guard(f"models {name}", check_model, tools, arguments,
              f"{TOP}/{here}/{entry['file']}")


def main():
    tools, report = start(__doc__)
    check_sums(report, tools)
    check_folds(report, tools)
    check_extracts(report, tools)
    check_models(report, tools)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
