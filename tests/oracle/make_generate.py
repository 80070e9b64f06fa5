#!/usr/bin/env python3
"""Make testdata/generate: what transformers writes, and how it chooses tokens.

    HF_HUB_OFFLINE=1 python tests/oracle/make_generate.py

prompts.jsonl   prompts for testdata/tiny-llama
greedy.jsonl    the new ids and the text that greedy search continues them with
penalty.jsonl   the same with a repetition penalty of 1.3
sampling.json   logits, and what transformers' processors leave of them
"""
import argparse
import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation import (LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor,
                                     TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "testdata")
PROMPTS = ["Once upon a time", "Mia has three red apples. Tom", "The cat", "", " The dog said \"", "Zoë’s 🦙 naïve",
           "two and two is</s>", "Anna is in the garden.\n"]
TOKENS = 48
CASES = [dict(temperature=0.7), dict(temperature=1.0, top_k=5), dict(temperature=1.5, top_p=0.8),
         dict(temperature=0.5, top_p=0.05), dict(temperature=1.0, min_p=0.1),
         dict(temperature=1.0, repetition=1.4), dict(temperature=2.0, top_k=12, top_p=0.7, min_p=0.15),
         dict(temperature=0.3, top_k=20, top_p=0.95, min_p=0.01, repetition=0.8), dict(temperature=1.0, top_k=1),
         dict(temperature=1.0, top_k=400), dict(temperature=1.0, min_p=1.0)]


def dump(path, lines):
    with open(path, "w") as f:
        f.writelines(json.dumps(x, ensure_ascii=False, separators=(",", ":")) + "\n" for x in lines)


def continued(model, tokenizer, text, **options):
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False,
                             pad_token_id=0, **options)[0]
    prompt = tokenizer.decode(ids[0], skip_special_tokens=True)
    whole = tokenizer.decode(out, skip_special_tokens=True)
    assert whole.startswith(prompt), (prompt, whole)
    return {"ids": out[ids.shape[1]:].tolist(), "text": whole[len(prompt):]}


def texts(out):
    tiny = os.path.join(ROOT, "tiny-llama")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    dump(os.path.join(out, "prompts.jsonl"), [{"prompt": p} for p in PROMPTS])
    for name, options in ("greedy", {}), ("penalty", {"repetition_penalty": 1.3}):
        dump(os.path.join(out, name + ".jsonl"), [continued(model, tokenizer, p, **options) for p in PROMPTS])


def processors(temperature, top_k=0, top_p=0.0, min_p=0.0, repetition=0.0):
    p = LogitsProcessorList()
    if repetition:
        p.append(RepetitionPenaltyLogitsProcessor(repetition))
    if temperature != 1.0:
        p.append(TemperatureLogitsWarper(temperature))
    if top_k:
        p.append(TopKLogitsWarper(top_k))
    if top_p:
        p.append(TopPLogitsWarper(top_p))
    if min_p:
        p.append(MinPLogitsWarper(min_p))
    return p


def sampling(out):
    torch.manual_seed(11)
    logits = (torch.randn(1, 64) * 2).float()
    logits[0, 7] = logits[0].topk(5).values[-1]  # two that are fifth
    seen = torch.tensor([[3, 9, int(logits.argmax()), 3, 60, 22]])
    cases = []
    for options in CASES:
        z = processors(**options)(seen, logits.clone())[0]
        cases.append(options | {"left": [None if v == float("-inf") else v for v in z.tolist()]})
    with open(os.path.join(out, "sampling.json"), "w") as f:
        json.dump({"logits": logits[0].tolist(), "seen": seen[0].tolist(), "cases": cases}, f)
        f.write("\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(ROOT, "generate"))
    o = parser.parse_args()
    os.makedirs(o.out, exist_ok=True)
    texts(o.out)
    sampling(o.out)
