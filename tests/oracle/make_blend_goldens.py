#!/usr/bin/env python3
"""Makes testdata/blend: tiny llama-shaped models, what mergekit makes of them
with each method and each recipe that lies there, and where mergekit is random or wrong, what the
published formula gives (blend.py).  Run from the top of the tree, with
PYTHONHASHSEED=0, in a venv that has mergekit.

    make_blend_goldens.py [DIR]

manifest.json says of each golden what made it and how far mergekit (f32) is
from the formula (float64).
"""
import json
import os
import shutil
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig

import blend

ROOT = sys.argv[1] if len(sys.argv) > 1 else "testdata/blend"
LIMIT = 1e-6        # mergekit in f32 against the formula
# what a golden of a method holds; a recipe's holds every tensor
KEPT = ("model.embed_tokens.", "model.layers.0.", "model.norm.")


# ---- the inputs ---------------------------------------------------------------

def write_tokenizer(folder, words):
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)},
                                   unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    t.save(f"{folder}/tokenizer.json", pretty=False)
    with open(f"{folder}/tokenizer_config.json", "w", encoding="utf-8") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast",
                   "unk_token": "<unk>", "bos_token": "<s>",
                   "eos_token": "</s>"}, f, indent=1)


def write_model(name, tensors, dtype=torch.float32, words=None):
    folder = f"{ROOT}/{name}"
    os.makedirs(folder)
    LlamaConfig(
        vocab_size=len(tensors["lm_head.weight"]), hidden_size=blend.HIDDEN,
        intermediate_size=blend.MIDDLE, num_hidden_layers=blend.LAYERS,
        num_attention_heads=blend.HEADS, num_key_value_heads=1,
        head_dim=blend.HEAD, max_position_embeddings=16,
        architectures=["LlamaForCausalLM"], dtype=str(dtype)[6:],
    ).save_pretrained(folder)
    save_file({k: torch.tensor(v).to(dtype) for k, v in tensors.items()},
              f"{folder}/model.safetensors", {"format": "pt"})
    if words:
        write_tokenizer(folder, words)


def make_models():
    base = blend.base_tensors(len(blend.VOCABULARY), 1)
    wide = blend.tuned(blend.base_tensors(len(blend.WIDE), 5), 6, 0.01)
    for k, v in base.items():
        if len(wide[k]) == len(v):
            wide[k] = blend.tuned({k: v}, 7, 0.02)[k]
    out = {"base": base, "a": blend.tuned(base, 2, 0.03),
           "b": blend.tuned(base, 3, 0.02),
           # so near that slerp goes straight
           "c": blend.tuned(base, 4, 0.0005), "wide": wide}
    words = {"base": blend.VOCABULARY, "wide": blend.WIDE}
    for name, tensors in out.items():
        write_model(name, tensors, words=words.get(name))
    for name in ("base", "a", "b"):
        half = {k: blend.bf16(v) for k, v in out[name].items()}
        write_model(f"{name}-bf16", half, torch.bfloat16)
        out[f"{name}-bf16"] = half
    return out


# ---- the methods ---------------------------------------------------------------

def task(keep=blend.keep_all, normalize=False, elect=False, keys=()):
    """The formula of a method of the family of task arithmetic."""
    def formula(base, models, each, p):
        d = [x * keep(x, **{k: e[k] for k in keys if k in e})
             for x, e in zip(blend.deltas(base, models), each)]
        return blend.combine(base, d, [e["weight"] for e in each],
                             p.get("lambda", 1), p.get("normalize", normalize),
                             elect)
    return formula


FORMULAS = {
    "linear": lambda base, models, each, p: blend.linear(
        models, [e["weight"] for e in each], p.get("normalize", True)),
    "task_arithmetic": task(),
    "slerp": lambda base, models, each, p: blend.slerp(
        base, models[0], p["t"]),
    "ties": task(blend.keep_largest, True, True, ("density",)),
    "breadcrumbs": task(blend.keep_middle, keys=("density", "gamma")),
    "breadcrumbs_ties": task(blend.keep_middle, elect=True,
                             keys=("density", "gamma")),
    "dare_linear": task(),                  # at density 1
    "dare_ties": task(elect=True),
    "della": task(normalize=True, elect=True),
    "della_linear": task(),
    "model_stock": lambda base, models, each, p: blend.model_stock(
        base, models, p.get("filter_wise", False)),
    "passthrough": lambda base, models, each, p: (
        models[0].astype(np.float64) * each[0]["scale"]),
}

# name, method, base, {model: its parameters}, parameters of all
CASES = [
    ("linear", "linear", None,
     {"a": {"weight": 0.2}, "b": {"weight": 0.3}, "c": {"weight": 0.7}}, {}),
    ("linear-sum", "linear", None,
     {"a": {"weight": 0.5}, "b": {"weight": 1.0}, "c": {"weight": -0.25}},
     {"normalize": False}),
    ("task_arithmetic", "task_arithmetic", "base",
     {"a": {"weight": 0.6}, "b": {"weight": 0.5}}, {"lambda": 0.8}),
    ("task_arithmetic-minus", "task_arithmetic", "base",
     {"a": {"weight": 1.5}, "b": {"weight": -0.5}, "c": {"weight": 1.0}},
     {"normalize": True}),
    ("slerp-0", "slerp", "base", {"a": {}}, {"t": 0.0}),
    ("slerp-0.3", "slerp", "base", {"a": {}}, {"t": 0.3}),
    ("slerp-1", "slerp", "base", {"a": {}}, {"t": 1.0}),
    ("slerp-near", "slerp", "base", {"c": {}}, {"t": 0.4}),
    ("ties", "ties", "base", {"a": {"weight": 0.3, "density": 0.5},
                              "b": {"weight": 0.7, "density": 0.5}}, {}),
    ("ties-three", "ties", "base",
     {"a": {"weight": 0.4, "density": 0.2}, "b": {"weight": 0.5, "density": 1.0},
      "c": {"weight": 7.0, "density": 0.6}},
     {"normalize": False, "lambda": 1.1}),
    ("breadcrumbs", "breadcrumbs", "base",
     {"a": {"weight": 0.5, "density": 0.6, "gamma": 0.1},
      "b": {"weight": 0.6, "density": 0.9, "gamma": 0.05}}, {}),
    # no tensor is so large that one of its elements is an outlier
    ("breadcrumbs-small", "breadcrumbs", "base",
     {"a": {"weight": 1.0, "density": 0.7, "gamma": 0.001}}, {}),
    ("breadcrumbs_ties", "breadcrumbs_ties", "base",
     {"a": {"weight": 0.5, "density": 0.6}, "b": {"weight": 0.6, "density": 0.8}},
     {"lambda": 0.9}),
    ("dare_ties-all", "dare_ties", "base",
     {"a": {"weight": 0.5, "density": 1.0}, "b": {"weight": 0.6, "density": 1.0}},
     {}),
    ("della-all", "della", "base",
     {"a": {"weight": 0.5, "density": 1.0}, "b": {"weight": 0.6, "density": 1.0}},
     {}),
    ("model_stock", "model_stock", "base", {"a": {}, "b": {}}, {}),
    ("model_stock-rows", "model_stock", "base", {"a": {}, "b": {}, "c": {}},
     {"filter_wise": True}),
    ("passthrough", "passthrough", None, {"a": {"scale": 0.5}}, {}),
    ("linear-bf16", "linear", None, {"a-bf16": {"weight": 0.2},
                                     "b-bf16": {"weight": 0.6}}, {}),
    ("slerp-bf16", "slerp", "base-bf16", {"a-bf16": {}}, {"t": 0.3}),
    ("task_arithmetic-bf16", "task_arithmetic", "base-bf16",
     {"a-bf16": {"weight": 0.6}, "b-bf16": {"weight": 0.5}}, {}),
]


def run(config):
    """What mergekit makes of a recipe whose paths start at ROOT."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as tmp:
        os.chdir(ROOT)
        try:
            run_merge(MergeConfiguration.model_validate(config), tmp,
                      MergeOptions(quiet=True, copy_tokenizer=False,
                                   write_model_card=False))
        finally:
            os.chdir(here)
        tensors = {}
        for f in sorted(os.listdir(tmp)):
            if f.endswith(".safetensors"):
                tensors |= load_file(f"{tmp}/{f}")
        facts = {}
        for f in ("config.json", "tokenizer.json"):
            if os.path.exists(f"{tmp}/{f}"):
                with open(f"{tmp}/{f}", encoding="utf-8") as g:
                    facts[f] = json.load(g)
    return tensors, facts


def recipe_of(method, base, each, p, half):
    out = {"merge_method": method, "dtype": "float32",
           "models": [{"model": m, "parameters": q} if q else {"model": m}
                      for m, q in each.items()]}
    if base:
        out["base_model"] = base
    if method == "slerp":
        out["models"].insert(0, {"model": base})
    if half:
        out["out_dtype"] = "bfloat16"
    return out | ({"parameters": p} if p else {})


def check_margins(method, base, each, formula_in):
    """A golden must not hang on the last bit of a sum in f32."""
    if method == "slerp":
        c = abs(blend.cosine(base, formula_in[0]))
        assert abs(c - 0.9995) > 2e-6, c
    if "ties" in method or method == "della":
        sums = sum(e["weight"] * d for e, d in
                   zip(each, blend.deltas(base, formula_in)))
        assert np.abs(sums).min() > 1e-7


def make_case(all_models, name, method, base, each, p):
    half = name.endswith("bf16")
    tensors, _ = run(recipe_of(method, base, each, p, half))
    out, worst = {}, 0.0
    for k, theirs in tensors.items():
        # a golden without a base still needs an array of the shape
        b = all_models[base or next(iter(each))][k]
        inputs = [all_models[m][k] for m in each]
        check_margins(method, b, list(each.values()), inputs)
        ours = FORMULAS[method](b, inputs, list(each.values()), p)
        if half:
            ours = blend.bf16(ours)
        error = np.abs(theirs.double().numpy() - ours).max()
        worst = max(worst, float(error))
        if k.startswith(KEPT):
            out[k] = theirs.contiguous()
    allowed = 2.0**-7 if half else LIMIT        # a bf16 step of the norms
    assert worst <= allowed, (name, worst)
    save_file(out, f"{ROOT}/{name}.safetensors", {"format": "pt"})
    return {"file": f"{name}.safetensors", "method": method, "base": base,
            "models": each, "parameters": p, "made_by": "mergekit 0.1.5",
            "from_formula": float(f"{worst:.2g}")}


# ---- the methods that draw lots -----------------------------------------------

RANDOM = [
    ("dare_linear", False, False, {}),
    ("dare_ties", False, True, {}),
    ("della_linear", False, False, {"epsilon": 0.15}),
    ("della", True, True, {"epsilon": 0.15}),
]
WEIGHTS, DENSITY = {"a": 0.5, "b": 0.8}, 0.4


def make_random(all_models, name, normalize, elect, extra, rng):
    """Lots that this script drew, and what the formula makes of them."""
    out = {}
    for k, base in all_models["base"].items():
        if not k.startswith(KEPT):
            continue
        sparse = []
        for m in WEIGHTS:
            d = all_models[m][k] - base
            chance = np.full(d.shape, DENSITY)
            if extra:
                chance = blend.della_chance(d, DENSITY, extra["epsilon"])
                if not elect:       # the same in della, which has no room
                    out[f"chance.{m}.{k}"] = torch.tensor(chance).float()
            keep = rng.random(d.shape) < chance
            out[f"keep.{m}.{k}"] = torch.tensor(keep.astype(np.uint8))
            sparse.append(d * keep / chance)
        merged = blend.combine(base, sparse, list(WEIGHTS.values()), 1.0,
                               normalize, elect)
        out[k] = torch.tensor(merged.astype(np.float32))
    save_file(out, f"{ROOT}/{name}.safetensors", {"format": "pt"})
    return {"file": f"{name}.safetensors", "method": name, "base": "base",
            "models": {m: {"weight": w, "density": DENSITY} | extra
                       for m, w in WEIGHTS.items()}, "parameters": {},
            "made_by": "formula",
            "why": "mergekit draws from torch's generator and scales what is "
                   "left to the old L1 norm; the papers divide by the chance",
            "whatever_is_drawn": "each delta of each model is 0 or d/chance"}


# ---- recipes -------------------------------------------------------------------

def order_tokens(tensors, tokenizer):
    """mergekit adds the tokens that the base lacks in the order of a hash
    map; here they come in the order of the model that has them."""
    t = Tokenizer.from_str(json.dumps(tokenizer))
    ids = t.get_vocab()
    words = [w for w in blend.VOCABULARY + blend.WIDE if w in ids]
    words = list(dict.fromkeys(words))
    assert len(words) == len(ids)
    for k in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[k] = tensors[k][[ids[w] for w in words]]
    return words


def make_recipe(name):
    with open(f"{ROOT}/{name}.yaml", encoding="utf-8") as f:
        text = f.read()
    tensors, facts = run(yaml.safe_load(text))
    words = None
    if "tokenizer_source" in text:
        words = order_tokens(tensors, facts["tokenizer.json"])
        tensors = {k: v for k, v in tensors.items()
                   if k.startswith(KEPT + ("lm_head",))}
    save_file({k: v.contiguous() for k, v in tensors.items()},
              f"{ROOT}/{name}.safetensors", {"format": "pt"})
    config = facts["config.json"]
    out = {"recipe": f"{name}.yaml", "file": f"{name}.safetensors",
           "made_by": "mergekit 0.1.5",
           "config": {k: config[k] for k in ("num_hidden_layers", "vocab_size",
                                             "dtype")}}
    if words:
        out["vocabulary"] = words
    return out


def main():
    for f in os.listdir(ROOT):      # the recipes are written by hand
        if not f.endswith(".yaml"):
            path = f"{ROOT}/{f}"
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    all_models = make_models()
    manifest = {c[0]: make_case(all_models, *c) for c in CASES}
    rng = np.random.default_rng(8)
    for r in RANDOM:
        manifest[r[0]] = make_random(all_models, *r, rng)
    for f in sorted(os.listdir(ROOT)):
        if f.endswith(".yaml"):
            manifest[f"recipe-{f[:-5]}"] = make_recipe(f[:-5])
    with open(f"{ROOT}/manifest.json", "w", encoding="utf-8") as f:
        json.dump(manifest, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
