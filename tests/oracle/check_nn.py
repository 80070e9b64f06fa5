#!/usr/bin/env python3
"""Run models with pq and with transformers and compare logits and greedy text.

    HF_HUB_OFFLINE=1 python tests/oracle/check_nn.py BUILD_BIN_DIR

One line a check; exit status 1 if any failed.  Random models of every family,
larger than those of testdata/nn; what pq-quantize makes of a model, against
bitsandbytes' own product; ../shared/models/stories260K where present.  What
the linear layers get as inputs, against hooks on them: importance matrices as
the gguf library reads and names them, norms and products.
"""
import argparse
import json
import os
import struct
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import gguf
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from check_oracle import STORIES, TINY, use_packed
from report import Report, Tools

EXACT = 1e-5  # of the largest logit
BASE = dict(vocab_size=200, hidden_size=128, intermediate_size=192, num_hidden_layers=3, num_attention_heads=8,
            num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0)
MODELS = {
    "llama": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "llama3 rope": ("llama", dict(rope_parameters=dict(
        rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=128))),
    "yarn": ("llama", dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0,
                                                original_max_position_embeddings=128))),
    "mistral": ("mistral", dict(sliding_window=100)),
    "qwen2": ("qwen2", dict(use_sliding_window=True, sliding_window=70, max_window_layers=1)),
    "qwen3": ("qwen3", dict(head_dim=32, tie_word_embeddings=True)),
    "gemma2": ("gemma2", dict(head_dim=32, sliding_window=90, query_pre_attn_scalar=24)),
    "phi3": ("phi3", dict(original_max_position_embeddings=256)),
    "gpt2": ("gpt2", dict(n_embd=128, n_layer=3, n_head=8, n_positions=512, vocab_size=200)),
}
# loss of its own story, runtime.md 1.4
STORY = [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410,
         408, 419, 292, 411, 322, 265, 282, 295, 433, 426]
STORY_LOSS = 0.180355564


class Pq(Tools):
    def __init__(self, bin_dir, work):
        super().__init__(bin_dir)
        self.work = work

    def data(self, texts):
        path = os.path.join(self.work, "ids.jsonl")
        with open(path, "w") as f:
            f.writelines(json.dumps({"ids": t}) + "\n" for t in texts)
        return path

    def eval(self, model, texts):
        data, out = self.data(texts), os.path.join(self.work, "logits.safetensors")
        told = json.loads(self.run("pq-eval", "--json", "--logits", out, "-d", data, model))
        z = load_file(out)
        return told, [z[f"logits.{i}"] for i in range(len(texts))]


def random_model(kind, extra):
    base = {} if kind == "gpt2" else BASE
    config = CONFIG_MAPPING[kind](**(base | extra))
    config._attn_implementation = "eager"
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3) if p.dim() > 1 else p.add_(torch.randn_like(p) * 0.2)
    return model


def random_texts(vocab, lengths):
    g = torch.Generator().manual_seed(5)
    return [torch.randint(vocab, (n,), generator=g).tolist() for n in lengths]


def compare(report, what, model, texts, told, got):
    with torch.no_grad():
        want = [model(torch.tensor([t]), use_cache=False).logits[0].float() for t in texts]
    top = max(w.abs().max().item() for w in want)
    off = max((w - g).abs().max().item() for w, g in zip(want, got)) / top
    nll = torch.cat([torch.nn.functional.cross_entropy(w[:-1].double(), torch.tensor(t[1:], dtype=torch.long),
                                                       reduction="none")
                     for w, t in zip(want, texts)]).mean().item()
    ok = off <= EXACT and abs(told["nll"] - nll) <= 1e-5 * max(nll, 1)
    report.line(ok, what, f"logits off by {off:.1e} of {top:.1f}, nll {told['nll']:.6f} and {nll:.6f}")


def check_family(report, what, pq, kind, extra):
    model = random_model(kind, extra)
    texts = random_texts(200, [300, 1, 65, 17])
    path = os.path.join(pq.work, what.replace(" ", "-"))
    model.save_pretrained(path)
    compare(report, what, model, texts, *pq.eval(path, texts))


def inputs_of(model, texts):
    """Products of the inputs of the linear layers, the mean over all tokens."""
    sums, hooks = {}, []
    for name, m in model.named_modules():
        if isinstance(m, (torch.nn.Linear, Conv1D)) and name != "lm_head":
            def add(_, inputs, name=name):
                x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
                sums[name] = sums.get(name, 0) + x.T @ x
            hooks.append(m.register_forward_pre_hook(add))
    with torch.no_grad():
        for t in texts:
            model(torch.tensor([t]), use_cache=False)
    for h in hooks:
        h.remove()
    tokens = sum(map(len, texts))
    return {name: x / tokens for name, x in sums.items()}, tokens


def read_dat(path):
    """The old form: mean squares by name, and the chunks they are of."""
    def take(form):
        nonlocal at
        at += struct.calcsize("<" + form)
        return struct.unpack_from("<" + form, data, at - struct.calcsize("<" + form))
    data, at, means, calls = open(path, "rb").read(), 0, {}, set()
    for _ in range(take("i")[0]):
        name = take(f"{take('i')[0]}s")[0].decode()
        n_call, n = take("2i")
        means[name] = torch.tensor(take(f"{n}f")) / n_call
        calls.add(n_call)
    calls.add(take("i")[0])
    assert take(f"{take('i')[0]}s")[0] == b"ids.jsonl" and at == len(data)
    return means, calls


def read_gguf(path, tokens):
    r = gguf.GGUFReader(path)
    assert r.fields["general.type"].contents() == "imatrix"
    assert r.fields["imatrix.datasets"].contents() == ["ids.jsonl"]
    t = {x.name: torch.tensor(x.data) for x in r.tensors}
    names = {n.removesuffix(".counts") for n in t if n.endswith(".counts")}
    assert len(t) == 2 * len(names) and all(t[n + ".counts"].tolist() == [tokens] for n in names)
    chunks = [r.fields["imatrix.chunk_" + k].contents() for k in ("count", "size")]
    return {n: t[n + ".in_sum2"] / tokens for n in names}, chunks


def distance(got, want):
    if set(got) != set(want):
        return float("inf")
    return max(((got[n].double() - want[n]).norm() / want[n].norm()).item() for n in want)


def check_inputs(report, what, pq, kind, extra):
    model = random_model(kind, extra)
    texts = random_texts(200, [300, 1, 65, 17])
    path, data = os.path.join(pq.work, what.replace(" ", "-")), pq.data(texts)
    model.save_pretrained(path)
    out = {k: os.path.join(pq.work, "inputs." + k) for k in ("norms", "hessian", "gguf", "dat")}
    pq.run("pq-eval", "--norms-out", out["norms"], "--hessian-out", out["hessian"], "--imatrix-out", out["gguf"],
           "-d", data, path)
    pq.run("pq-eval", "--imatrix-out", out["dat"], "-d", data, path)
    want, tokens = inputs_of(model, texts)
    arch = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == {"mistral": "llama"}.get(kind, kind))
    names = gguf.get_tensor_name_map(arch, 3)
    squares = {names.get_name(n) + ".weight": x.diagonal() for n, x in want.items()}
    means, (count, size) = read_gguf(out["gguf"], tokens)
    old, calls = read_dat(out["dat"])
    off = [distance(means, squares), distance(old, squares),
           distance({n: x.square() for n, x in load_file(out["norms"]).items()},
                    {n + ".weight": x.diagonal() for n, x in want.items()}),
           distance(load_file(out["hessian"]), {n + ".weight": x for n, x in want.items()})]
    ok = max(off) < 1e-5 and size == 512 and calls == {count} == {-(-tokens // size)}
    report.line(ok, what + ", inputs", f"{len(squares)} weights, off by " + " ".join(f"{x:.0e}" for x in off))


def check_against(report, what, pq, kind, extra):
    """KL divergence and same choices of a model and one that is near it."""
    base, texts = random_model(kind, extra), random_texts(200, [150, 1, 40])
    paths = [os.path.join(pq.work, "against", name) for name in ("base", "near")]
    base.save_pretrained(paths[0])
    with torch.no_grad():
        p = [base(torch.tensor([t])).logits[0, :-1].double().log_softmax(-1) for t in texts]
        torch.manual_seed(9)
        for w in base.parameters():
            w.add_(0.1 * w.std() * torch.randn_like(w) if w.dim() > 1 else 0)
        q = [base(torch.tensor([t])).logits[0, :-1].double().log_softmax(-1) for t in texts]
    base.save_pretrained(paths[1])
    p, q = torch.cat(p), torch.cat(q)
    kl, same = (p.exp() * (p - q)).sum(1).mean().item(), (p.argmax(1) == q.argmax(1)).double().mean().item()
    told = json.loads(pq.run("pq-eval", "--json", "--against", paths[0], "-d", pq.data(texts), paths[1]))
    report.line(abs(told["kl"] / kl - 1) < 1e-4 and abs(told["same_top"] - same) < 1e-9, what + ", against",
                f"{told['kl']:.6f} and {kl:.6f} nats, {told['same_top']:.4f} and {same:.4f} the same")


def check_quantized(report, what, pq, options):
    path = os.path.join(pq.work, what.replace(" ", "-"))
    pq.run("pq-quantize", *options, TINY, "-o", path + "/")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    use_packed(model, False)  # that path rounds to bfloat16
    texts = random_texts(512, [100, 31])
    compare(report, what, model, texts, *pq.eval(path, texts))


def check_story(report, what, pq):
    told, _ = pq.eval(STORIES, [STORY])
    report.line(abs(told["nll"] / STORY_LOSS - 1) < 1e-5, what, f"nll {told['nll']:.9f} and {STORY_LOSS}")
    model = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32, attn_implementation="eager").eval()
    ids = model.generate(torch.tensor([STORY[:5]]), max_new_tokens=400, do_sample=False, min_new_tokens=400)
    texts = [ids[0].tolist(), STORY]
    compare(report, what + ", longer", model, texts, *pq.eval(STORIES, texts))
    prompt = "Once upon a time"
    told = json.loads(pq.run("pq-generate", "--json", "--max-tokens", "80", "-p", prompt, STORIES))
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    ids = model.generate(torch.tensor([STORY[:5]]), max_new_tokens=80, do_sample=False)[0]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    report.line(told["ids"] == ids[5:].tolist() and prompt + told["text"] == text, what + ", its text",
                f"{len(told['ids'])} tokens")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("bin")
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        pq = Pq(p.parse_args().bin, work)
        for what, (kind, extra) in MODELS.items():
            report.guard(what, check_family, pq, kind, extra)
            report.guard(what, check_inputs, pq, kind, extra)
        report.guard("llama", check_against, pq, *MODELS["llama"])
        for what, options in {"nf4": ["-t", "nf4"], "nf4 twice": ["-t", "nf4", "--double-quant"],
                              "fp4": ["-t", "fp4"], "bf16": ["-t", "bf16"], "f16": ["-t", "f16"]}.items():
            report.guard("tiny-llama " + what, check_quantized, pq, options)
        if os.path.isdir(STORIES):
            report.guard("stories260K", check_story, pq)
    return report.end()


sys.exit(main())
