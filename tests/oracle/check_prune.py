#!/usr/bin/env python3
"""Take layers, heads and channels out of tiny models with pq-prune, load what
is left in transformers, and compare logits with the model in which the same
parts are there but write nothing.

    HF_HUB_OFFLINE=1 python tests/oracle/check_prune.py BUILD_BIN_DIR

A layer that is not there is one whose two output projections are zero; a head
one whose columns of o_proj are; a channel one whose column of down_proj is.
Which channels are the least is found here, in float64.

The difference from the whole model is told, too, so that it is seen that the
parts mattered.  One line a check; exit status 1 if any failed.
"""
import json
import os
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM

from report import start

SIZES = dict(vocab_size=96, hidden_size=48, intermediate_size=80,
             num_hidden_layers=5, num_attention_heads=6,
             num_key_value_heads=3, max_position_embeddings=64)
MODELS = {
    "llama": ("Llama", dict(SIZES)),
    "llama-bias": ("Llama", dict(SIZES, attention_bias=True, mlp_bias=True)),
    "llama-head-dim": ("Llama", dict(SIZES, head_dim=12)),
    "llama-no-groups": ("Llama", dict(SIZES, num_key_value_heads=6)),
    "mistral": ("Mistral", dict(SIZES, sliding_window=4)),
    "qwen2": ("Qwen2", dict(SIZES, use_sliding_window=True, sliding_window=3,
                            max_window_layers=2)),
    "qwen3": ("Qwen3", dict(SIZES, head_dim=8)),
    "gpt2": ("GPT2", dict(vocab_size=96, n_embd=48, n_layer=5, n_head=6,
                          n_positions=64, attn_pdrop=0., embd_pdrop=0.,
                          resid_pdrop=0.)),
}
EXACT = 1e-5        # of the largest logit


def make_model(name):
    torch.manual_seed(sum(map(ord, name)))
    kind, keys = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**keys)
    model = getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(
        kind, f"{kind}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * .2 + (p.ndim == 1) * .5)
    return model


# ---- the same parts made silent ----------------------------------------------

def layers_of(model):
    return model.transformer.h if hasattr(model, "transformer") \
        else model.model.layers


def outputs(layer):
    """The two matrices that write to the residual, columns their inputs."""
    if hasattr(layer, "self_attn"):
        return layer.self_attn.o_proj, layer.mlp.down_proj
    return layer.attn.c_proj, layer.mlp.c_proj


def columns(linear):
    """[out, in], whatever the module stores."""
    w = linear.weight.data
    return w.T if type(linear).__name__ == "Conv1D" else w


def drop_layers(model, which):
    for i in which:
        for linear in outputs(layers_of(model)[i]):
            linear.weight.data.zero_()
            if linear.bias is not None:
                linear.bias.data.zero_()


def drop_heads(model, which):
    for i, heads in which.items():
        attention = layers_of(model)[i].self_attn
        d = attention.head_dim
        for h in heads:
            attention.o_proj.weight.data[:, h * d:(h + 1) * d] = 0


def scores(layer):
    mlp = layer.mlp
    ups = [mlp.c_fc] if hasattr(mlp, "c_fc") else [mlp.gate_proj, mlp.up_proj]
    down = columns(outputs(layer)[1]).double()
    return sum((columns(u).double() ** 2).sum(1) for u in ups) + \
        (down ** 2).sum(0)


def drop_channels(model, fraction, but=()):
    for i, layer in enumerate(layers_of(model)):
        s = scores(layer)
        least = s.argsort()[:round(fraction * len(s))]
        if i not in but:
            columns(outputs(layer)[1])[:, least] = 0


# ---- the checks --------------------------------------------------------------

def logits(model):
    with torch.no_grad():
        ids = torch.arange(12)[None] * 7 % model.config.vocab_size
        return model(ids, use_cache=False).logits


def compare(report, tools, what, source, silent, whole, options, config, out):
    tools.run("pq-prune", *options, "-o", out + "/", source)
    model, info = AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float32, output_loading_info=True)
    wrong = [k for k, v in info.items() if v]
    if wrong:
        report.line(False, what, f"loading says {wrong}")
        return
    for key, value in config.items():
        if getattr(model.config, key) != value:
            report.line(False, what, f"{key} is {getattr(model.config, key)}")
            return
    a, b = logits(model.eval()), logits(silent)
    worst = float((a - b).abs().max() / b.abs().max())
    effect = float((logits(whole) - b).abs().max() / b.abs().max())
    small = sum(p.numel() for p in model.parameters()) < \
        sum(p.numel() for p in silent.parameters())
    report.line(worst < EXACT and small and effect > .01, what,
                f"logits differ by {worst:.2g}, from the whole by {effect:.2g}")


def cases(name):
    """Options, what they silence, and what config.json says then."""
    yield ("--drop-layers=1,3", lambda m: drop_layers(m, [1, 3]),
           dict(num_hidden_layers=3))
    yield ("--drop-layers=2-4", lambda m: drop_layers(m, [2, 3, 4]),
           dict(num_hidden_layers=2))
    gpt2 = name == "gpt2"
    inner = "n_inner" if gpt2 else "intermediate_size"
    n = 192 if gpt2 else 80
    yield ("--drop-channels=.3", lambda m: drop_channels(m, .3),
           {inner: n - round(.3 * n)})
    if gpt2:
        return
    groups = name != "llama-no-groups"
    yield ("--drop-heads=*:2-3", lambda m: drop_heads(
        m, {i: [2, 3] for i in range(5)}),
        dict(num_attention_heads=4, num_key_value_heads=2 if groups else 4))
    some = {0: [0, 2, 4], 1: [1, 3, 5], 2: [0, 3, 4], 3: [1, 2, 5],
            4: [0, 2, 4]}
    text = ",".join(f"{i}:{h}" for i, hs in some.items() for h in hs)
    yield ("--drop-heads=" + text, lambda m: drop_heads(m, some),
           dict(num_attention_heads=3, num_key_value_heads=3))
    yield ("--drop-layers=0 --drop-heads=1-4:0-1 --drop-channels=.5",
           lambda m: (drop_channels(m, .5, [0]), drop_layers(m, [0]),
                      drop_heads(m, {i: [0, 1] for i in range(1, 5)})),
           dict(num_hidden_layers=4, num_attention_heads=4,
                intermediate_size=40))


def check_model(report, what, name, tools, scratch):
    for form in {"llama": ("one", "shards", "pipe")}.get(name, ("one",)):
        source = f"{scratch}/{name}-{form}"
        model = make_model(name)
        model.save_pretrained(
            source, max_shard_size="60KB" if form == "shards" else "1GB")
        if form == "pipe":
            tools.run("pq-convert", "-o", source + ".pq", source)
            source += ".pq"
        for k, (options, silence, config) in enumerate(cases(name)):
            silent = make_model(name)
            silence(silent)
            compare(report, tools, f"{name} {form} {options}", source, silent,
                    model, options.split(), config,
                    f"{scratch}/{name}-{form}-{k}")


def check_bf16(report, what, tools, scratch):
    make_model("llama").bfloat16().save_pretrained(f"{scratch}/bf16")
    whole, silent = (AutoModelForCausalLM.from_pretrained(
        f"{scratch}/bf16", dtype=torch.float32).eval() for _ in range(2))
    drop_channels(silent, .25)
    compare(report, tools, what, f"{scratch}/bf16", silent, whole,
            ["--drop-channels=.25"], dict(intermediate_size=60),
            f"{scratch}/bf16-out")


def check_windows(report, what, tools, scratch):
    """Without layer_types max_window_layers alone says which layers slide."""
    model = make_model("qwen2")
    model.save_pretrained(f"{scratch}/windows")
    path = f"{scratch}/windows/config.json"
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    del config["layer_types"]
    with open(path, "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
    silent = make_model("qwen2")
    drop_layers(silent, [1, 3])
    compare(report, tools, what, f"{scratch}/windows", silent, model,
            ["--drop-layers=1,3"],
            dict(num_hidden_layers=3, max_window_layers=1),
            f"{scratch}/windows-out")


def main():
    tools, report = start(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        for name in MODELS:
            report.guard(name, check_model, name, tools, scratch)
        report.guard("bf16", check_bf16, tools, scratch)
        report.guard("windows", check_windows, tools, scratch)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
