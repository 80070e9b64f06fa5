#!/usr/bin/env python3
"""Makes testdata/adapters: sums of adapters, and adapters on a base that
their start has changed (PiSSA, OLoRA).  Run from the top of the tree after
make_peft_goldens.py, with PYTHONHASHSEED=0.

Sums: NAME.safetensors has the delta of each module (as PEFT merges it into a
weight [out][in]) that the sum of the adapters stands for, computed in float64
and rounded to f32; manifest.json has the operands and, for each module, the
error that the best approximation of rank 0, 1, 2... has, relative to the
delta (Frobenius norms).

Starts: a directory as PEFT saves it after a few steps, and in
merged.safetensors what PEFT's own merge makes of it.  The base on disk is the
one from before the start, so W' = W - s B0 A0 + s B A.
"""
import json
import os
import re
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import blend
from make_peft_goldens import BASES, CONV1D, LINEAR, save_state, shake

ROOT = "testdata/adapters"
PEFT = "testdata/peft"


# ---- adapters -------------------------------------------------------------------

def save_adapter(model, name):
    folder = f"{ROOT}/{name}"
    model.save_pretrained(folder, save_embedding_layers=False)
    os.remove(f"{folder}/README.md")
    return folder


def make_adapter(name, base, seed, **args):
    args = dict(lora_alpha=6, task_type="CAUSAL_LM") | args
    base = BASES[base]()            # which seeds, too
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(**args))
    shake(model)
    save_adapter(model, name)


def make_operands():
    """Two of a federation, equal in all but their numbers; others whose
    ranks and scales differ from theirs; and a second adapter for gpt2."""
    make_adapter("party-1", "llama", 31, r=3, target_modules=LINEAR)
    make_adapter("party-2", "llama", 32, r=3, target_modules=LINEAR)
    make_adapter("five", "llama", 34, r=5, target_modules=LINEAR,
                 use_rslora=True)
    make_adapter("mix", "llama", 35, r=2, target_modules=LINEAR + ["k_proj"],
                 rank_pattern={"q_proj": 4}, alpha_pattern={"v_proj": 3})
    make_adapter("conv1d-2", "gpt2", 33, r=2, target_modules=CONV1D,
                 fan_in_fan_out=True)


def factors(folder):
    """module -> (A, B with the scale in it, is it an embedding); float64."""
    with open(f"{folder}/adapter_config.json", encoding="utf-8") as f:
        config = json.load(f)
    tensors = {k.removeprefix("base_model.model."): v.double().numpy()
               for k, v in load_file(f"{folder}/adapter_model.safetensors").items()}
    out = {}

    def pattern(key, module, other):
        for k, v in (config[key] or {}).items():
            if re.match(rf"(.*\.)?({k})$", module):
                return v
        return other

    for k, a in tensors.items():
        for suffix, other in ((".lora_A.weight", ".lora_B.weight"),
                              (".lora_embedding_A", ".lora_embedding_B")):
            if not k.endswith(suffix):
                continue
            module = k[:-len(suffix)]
            r = pattern("rank_pattern", module, config["r"])
            alpha = pattern("alpha_pattern", module, config["lora_alpha"])
            assert len(a) == r
            s = alpha / (np.sqrt(r) if config["use_rslora"] else r)
            out[module] = (a, s * tensors[module + other],
                           "embedding" in suffix)
    return out


def delta_of(folder):
    """tensor of the model -> its delta.  A Conv1D weight is stored [in][out],
    yet given here [out][in]."""
    return {module + ".weight": (b @ a).T if embedding else b @ a
            for module, (a, b, embedding) in factors(folder).items()}


def rank_errors(delta):
    """The best relative error of ranks 0, 1, 2, ..."""
    s = np.linalg.svd(delta, compute_uv=False)
    tail = np.sqrt(np.cumsum(s[::-1] ** 2)[::-1])
    return [float(f"{x:.6g}") if x > 1e-12 else 0.0
            for x in tail / tail[0]] + [0.0]


def total(operands):
    """The exact sum; a module that an adapter lacks has a delta of zero."""
    out = {}
    for folder, w in operands.items():
        for k, d in delta_of(folder).items():
            out[k] = out.get(k, 0) + w * d
    return out


def ties(operands, density, **options):
    each = {f: delta_of(f) for f in operands}
    out = {}
    for k in next(iter(each.values())):
        d = [e[k] for e in each.values()]
        sparse = [x * blend.keep_largest(x, density) for x in d]
        out[k] = blend.combine(np.zeros(d[0].shape), sparse,
                               list(operands.values()), elect=True, **options)
    return out


def fedavg(operands):
    """A and B averaged apart, which is not the average of B A."""
    out = {}
    for folder, w in operands.items():
        for k, v in load_file(f"{folder}/adapter_model.safetensors").items():
            out[k] = out.get(k, 0) + w * v.double().numpy()
    return out


def write(name, tensors, operands, method, options, note=""):
    save_file({k: torch.tensor(np.ascontiguousarray(v)).float()
               for k, v in tensors.items()},
              f"{ROOT}/{name}.safetensors", {"format": "pt"})
    entry = {"file": f"{name}.safetensors", "method": method,
             "operands": operands, "options": options, "made_by": "formula",
             "best_errors": {k: rank_errors(v) for k, v in tensors.items()
                             if v.ndim == 2 and method != "fedavg"}}
    return entry | ({"note": note} if note else {})


def make_sums():
    one, two, five, mix, conv2 = [f"{ROOT}/{n}" for n in (
        "party-1", "party-2", "five", "mix", "conv1d-2")]
    emb, conv1 = [f"{PEFT}/{n}" for n in ("embedding", "conv1d")]
    parties = {one: 30, two: 10}
    shares = {k: v / 40 for k, v in parties.items()}
    out = {}
    for name, operands in {
        "sum-two": {one: 0.5, five: 0.5},
        "sum-three": {one: 0.2, five: 0.3, mix: 0.5},
        "sum-minus": {mix: 1.0, one: -0.5},
        "sum-embedding": {emb: 1.0, one: 0.5},
        "sum-conv1d": {conv1: 0.7, conv2: 0.4},
    }.items():
        out[name] = write(name, total(operands), operands, "linear", {})
    out["sum-parties"] = write("sum-parties", total(shares), parties,
                               "linear", {"normalize": True})
    out["fedavg"] = write("fedavg", fedavg(shares), parties, "fedavg",
                          {"normalize": True},
                          "A and B themselves, under their names in a file")
    pair = {one: 0.5, five: 0.8}
    out["ties"] = write("ties", ties(pair, 0.5, normalize=True), pair, "ties",
                        {"density": 0.5, "normalize": True},
                        "the formula for models, with a base of zeros")
    out["ties-sum"] = write("ties-sum", ties(pair, 0.3, lam=1.2), pair, "ties",
                            {"density": 0.3, "normalize": False,
                             "lambda": 1.2})
    return out


# ---- starts that change the base ----------------------------------------------

STARTS = {
    "pissa": ("llama", dict(target_modules=LINEAR, init_lora_weights="pissa")),
    "pissa-rslora": ("llama", dict(target_modules=LINEAR, use_rslora=True,
                                   init_lora_weights="pissa")),
    "pissa-niter": ("decay", dict(target_modules=LINEAR,
                                  init_lora_weights="pissa_niter_16")),
    "pissa-conv1d": ("gpt2", dict(target_modules=["c_attn"], fan_in_fan_out=True,
                                  init_lora_weights="pissa")),
    "olora": ("llama", dict(target_modules=LINEAR, init_lora_weights="olora",
                            rank_pattern={"q_proj": 2})),
}


def decay():
    """A base whose singular values fall by 0.6 each: there a randomised SVD
    finds what an exact one does."""
    model = BASES["llama"]()
    for k, p in model.named_parameters():
        if p.ndim == 2 and k.split(".")[-2] in LINEAR:
            u, s, v = torch.linalg.svd(p.data, full_matrices=False)
            p.data = (u * 0.1 * 0.6 ** torch.arange(len(s))) @ v
    return model


def train(model, steps=4):
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.02)
    ids = torch.randint(0, 24, (4, 8))
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def start_factors(weight, r, s, kind):
    """B0 A0 s: the best rank-r part, or the first r columns of Q and rows of
    R; neither depends on signs."""
    if kind == "olora":
        q, t = np.linalg.qr(weight)
        return s * q[:, :r] @ t[:r]
    u, v, w = np.linalg.svd(weight, full_matrices=False)
    return (u[:, :r] * v[:r]) @ w[:r]


def check_start(name, base, kind):
    """How far PEFT's merge is from W - s B0 A0 + s B A in float64."""
    merged = load_file(f"{ROOT}/{name}/merged.safetensors")
    worst = 0.0
    for module, (a, b, _) in factors(f"{ROOT}/{name}").items():
        w = base[module + ".weight"].double().numpy()
        w = w.T if "conv1d" in name else w
        with open(f"{ROOT}/{name}/adapter_config.json", encoding="utf-8") as f:
            config = json.load(f)
        r = len(a)
        s = config["lora_alpha"] / (r**0.5 if config["use_rslora"] else r)
        ours = w - start_factors(w, r, s, kind) + b @ a
        theirs = merged[module + ".weight"].double().numpy()
        theirs = theirs.T if "conv1d" in name else theirs
        worst = max(worst, float(np.abs(ours - theirs).max()))
    return float(f"{worst:.2g}")


def make_starts():
    out = {}
    decay().save_pretrained(f"{ROOT}/base-decay")
    os.remove(f"{ROOT}/base-decay/generation_config.json")
    bases = BASES | {"decay": decay}
    for i, (name, (base, args)) in enumerate(STARTS.items()):
        args = dict(r=4, lora_alpha=6, task_type="CAUSAL_LM") | args
        model = bases[base]()
        torch.manual_seed(50 + i)
        model = get_peft_model(model, LoraConfig(**args))
        save_adapter(train(model), name)
        save_state(model.merge_and_unload(), bases[base](),
                   f"{ROOT}/{name}/merged.safetensors")
        out[name] = {
            "base": f"{ROOT if base == 'decay' else PEFT}/base-{base}",
            "made_by": "PEFT",
            "from_formula": check_start(name, bases[base]().state_dict(),
                                        args["init_lora_weights"])}
    out["pissa-niter"]["note"] = (
        "the start is a randomised SVD whose numbers PEFT does not keep; an "
        "exact one is as near as the singular values fall apart: 1e-7 here, "
        "yet 0.02 (as much as the weights) on testdata/peft/base-llama")
    return out


def main():
    torch.set_num_threads(1)
    for f in os.listdir(ROOT) if os.path.exists(ROOT) else []:
        path = f"{ROOT}/{f}"
        if not f.startswith("moe"):             # make_moe_goldens.py's
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    os.makedirs(ROOT, exist_ok=True)
    make_operands()
    manifest = make_sums() | make_starts()
    with open(f"{ROOT}/manifest.json", "w", encoding="utf-8") as f:
        lines = [f"{json.dumps(k)}: {json.dumps(v)}"
                 for k, v in manifest.items()]
        f.write("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    sys.exit(main())
