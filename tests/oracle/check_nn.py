#!/usr/bin/env python3
"""Run models with pq and with transformers and compare logits and greedy text.

    HF_HUB_OFFLINE=1 python tests/oracle/check_nn.py BUILD_BIN_DIR

One line a check; exit status 1 if any failed.  Random models of every family,
larger than those of testdata/nn; what pq-quantize makes of a model, against
bitsandbytes' own product; ../shared/models/stories260K where present.
"""
import argparse
import json
import os
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

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

    def eval(self, model, texts):
        data, out = os.path.join(self.work, "ids.jsonl"), os.path.join(self.work, "logits.safetensors")
        with open(data, "w") as f:
            f.writelines(json.dumps({"ids": t}) + "\n" for t in texts)
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
        for what, options in {"nf4": ["-t", "nf4"], "nf4 twice": ["-t", "nf4", "--double-quant"],
                              "fp4": ["-t", "fp4"], "bf16": ["-t", "bf16"], "f16": ["-t", "f16"]}.items():
            report.guard("tiny-llama " + what, check_quantized, pq, options)
        if os.path.isdir(STORIES):
            report.guard("stories260K", check_story, pq)
    return report.end()


sys.exit(main())
