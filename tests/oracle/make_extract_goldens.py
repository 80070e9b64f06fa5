#!/usr/bin/env python3
"""Makes testdata/extract: models tuned from the bases of testdata/peft in ways
that an adapter can or cannot say, and what the best adapter would lose.  Run
from the top of the tree after the other make_*_goldens.py.

manifest.json, all computed in float64 from the files as they are (A's and B's
own rounding not counted):

    pairs.NAME     base, tuned, and of each tensor that differs the norm of
                   the delta and, for a matrix, its singular values relative
                   to that norm; 0 where they are rounding
    pairs.NAME.budgets  a number of factor elements (r (rows + columns),
                   summed over the Linear and Conv1D weights) and the least
                   error they can reach over all of those together, relative
    plain.NAME     the same for the difference that an adapter of
                   testdata/peft or testdata/adapters makes to its base
    resize.NAME    the same for the delta of a LoRA itself

The error of the best rank r is the root of the sum of the squares of the
singular values from r on (Eckart and Young); the rank that keeps an energy E
is the least whose squares before r sum to E.
"""
import json
import os
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from make_adapter_goldens import delta_of

ROOT, PEFT, ADAPTERS = "testdata/extract", "testdata/peft", "testdata/adapters"
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
          "down_proj", "c_attn", "c_proj", "c_fc")
FLOOR = 2e-7        # of the norm: what rounding to f32 leaves


def is_linear(name):
    parts = name.split(".")
    return parts[-1] == "weight" and parts[-2] in LINEAR


def low_rank(rng, shape, rank, scale):
    a, b = rng.normal(size=(shape[0], rank)), rng.normal(size=(rank, shape[1]))
    return scale * a @ b


def noise(rng, shape, scale):
    return scale * rng.normal(size=shape)


# ---- the tuned models: how each tensor changes --------------------------------

def rank_three(rng, name, shape):
    """Every linear weight, exactly rank 3; nothing else."""
    return low_rank(rng, shape, 3, 0.01) if is_linear(name) else None


def mixed(rng, name, shape):
    """Rank 2 in the table, a head, a norm and biases that changed without
    pattern, rank 3 in the MLPs of one layer; the rest stays as it is."""
    if name == "model.embed_tokens.weight":
        return low_rank(rng, shape, 2, 0.01)
    if name.startswith(("lm_head", "model.norm")) or name.endswith("bias"):
        return noise(rng, shape, 0.01)
    return rank_three(rng, name, shape) if "1.mlp" in name else None


def conv1d(rng, name, shape):
    return low_rank(rng, shape, 2, 0.01) if is_linear(name) else None


def tied(rng, name, shape):
    """The table, which is the head as well, changes with rank 2."""
    if name == "model.embed_tokens.weight":
        return low_rank(rng, shape, 2, 0.01)
    return rank_three(rng, name, shape)


TUNED = {"rank3": ("base-llama", rank_three), "mixed": ("base-llama", mixed),
         "conv1d": ("base-gpt2", conv1d), "tied": ("base-llama-tied", tied)}


def make_tuned(name, base, change, seed):
    folder = f"{ROOT}/{name}"
    os.makedirs(folder)
    shutil.copy(f"{PEFT}/{base}/config.json", folder)
    rng = np.random.default_rng(seed)
    out = {}
    for k, v in load_file(f"{PEFT}/{base}/model.safetensors").items():
        d = change(rng, k, tuple(v.shape))
        out[k] = v if d is None else (v.double() + torch.tensor(d)).float()
    save_file(out, f"{folder}/model.safetensors", {"format": "pt"})
    return f"{PEFT}/{base}", folder


def make_wide():
    """Bare files with one weight of 56 x 40, large enough that a randomised
    SVD is not an exact one; the singular values fall slowly."""
    rng = np.random.default_rng(9)
    w = rng.normal(0, 0.02, (56, 40))
    u, _ = np.linalg.qr(rng.normal(size=(56, 40)))
    v, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    d = (u * 0.02 * 0.95 ** np.arange(40)) @ v
    for name, x in (("wide-base", w), ("wide-tuned", w + d)):
        save_file({"model.layers.0.mlp.up_proj.weight":
                   torch.tensor(x).float()},
                  f"{ROOT}/{name}.safetensors", {"format": "pt"})
    return f"{ROOT}/wide-base.safetensors", f"{ROOT}/wide-tuned.safetensors"


# ---- what can be known of a delta ---------------------------------------------

def facts_of(delta):
    norm = float(np.linalg.norm(delta))
    out = {"norm": float(f"{norm:.9g}")}
    if delta.ndim == 2:
        s = np.linalg.svd(delta, compute_uv=False) / norm
        out["singular"] = [float(f"{x:.7g}") if x > FLOOR else 0 for x in s]
    return out


def load(path):
    if os.path.isdir(path):
        path += "/model.safetensors"
    return {k: v.double().numpy() for k, v in load_file(path).items()}


def difference(base, tuned):
    return {k: tuned[k] - v for k, v in base.items()
            if k in tuned and not np.array_equal(v, tuned[k])}


def budgets(deltas):
    """A rank of a matrix costs rows + columns; as singular values fall, to
    take always what gives the most for its cost is best.  The budgets are
    such that nothing is left over."""
    steps = []
    for d in deltas.values():
        for s in np.linalg.svd(d, compute_uv=False):
            steps.append((s**2, sum(d.shape)))
    steps.sort(key=lambda x: -x[0] / x[1])
    everything = sum(s for s, _ in steps)
    cost = np.cumsum([c for _, c in steps])
    lost = everything - np.cumsum([s for s, _ in steps])
    picks = [len(steps) // 8, len(steps) // 4, len(steps) // 2]
    return [{"elements": int(cost[i]),
             "error": float(f"{np.sqrt(max(lost[i], 0) / everything):.6g}")}
            for i in picks]


def pair(base, tuned):
    deltas = difference(load(base), load(tuned))
    out = {"base": base, "tuned": tuned,
           "tensors": {k: facts_of(d) for k, d in deltas.items()}}
    linear = {k: d for k, d in deltas.items() if is_linear(k)}
    if len(linear) > 2:
        out["budgets"] = budgets(linear)
    return out


def plain(folder, base):
    merged = load(f"{folder}/merged.safetensors")
    deltas = difference(load(base), merged)
    return {"adapter": folder, "base": base,
            "tensors": {k: facts_of(d) for k, d in deltas.items()}}


PLAIN = [(f"{PEFT}/rslora", "base-llama"), (f"{PEFT}/dora", "base-llama"),
         (f"{PEFT}/conv1d-dora", "base-gpt2"),
         (f"{ADAPTERS}/pissa", "base-llama"),
         (f"{ADAPTERS}/olora", "base-llama")]
RESIZE = [f"{ADAPTERS}/five", f"{ADAPTERS}/mix", f"{PEFT}/embedding",
          f"{PEFT}/conv1d"]


def main():
    shutil.rmtree(ROOT, ignore_errors=True)
    os.makedirs(ROOT)
    pairs = {n: make_tuned(n, *t, 40 + i)
             for i, (n, t) in enumerate(TUNED.items())}
    pairs["wide"] = make_wide()
    # nothing of low rank in these
    pairs["full"] = "testdata/blend/base", "testdata/blend/a"
    pairs["bf16"] = "testdata/blend/base-bf16", "testdata/blend/a-bf16"
    manifest = {f"pairs.{n}": pair(*p) for n, p in pairs.items()}
    for folder, base in PLAIN:
        manifest["plain." + os.path.basename(folder)] = plain(
            folder, f"{PEFT}/{base}")
    for folder in RESIZE:
        manifest["resize." + os.path.basename(folder)] = {
            "adapter": folder, "tensors": {
                k: facts_of(d) for k, d in delta_of(folder).items()}}
    with open(f"{ROOT}/manifest.json", "w", encoding="utf-8") as f:
        lines = [f"{json.dumps(k)}: {json.dumps(v)}"
                 for k, v in manifest.items()]
        f.write("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
