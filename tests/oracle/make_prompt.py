#!/usr/bin/env python3
"""testdata/prompt: a soft prompt for testdata/tiny-llama, and what torch says
of it.

The prompt is five rows: rows of the vocabulary with noise, of which two are
nearly the same.  PEFT saves it.  expected.json is what pq-prompt --json
--model testdata/tiny-llama -d ids.jsonl prints, computed with torch in float64
(norms, cosines, singular values) and transformers in float32 (losses); the
first loss is that of PEFT.
"""
import json
import os

import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "..", "testdata")
MODEL = os.path.join(DATA, "tiny-llama")
OUT = os.path.join(DATA, "prompt")
N, TOP = 5, 3


def make(model):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=N)
    peft = get_peft_model(model, config)
    rows = peft.get_base_model().get_input_embeddings().weight.detach()
    g = torch.Generator().manual_seed(7)
    x = rows[[451, 300, 289, 402, 300]].clone()
    x += 0.08 * torch.randn(x.shape, generator=g)
    x[4] = 1.5 * x[1] + 0.01 * torch.randn(x.shape[1], generator=g)
    peft.prompt_encoder["default"].embedding.weight.data = x
    peft.save_pretrained(OUT)
    if os.path.exists(os.path.join(OUT, "README.md")):
        os.remove(os.path.join(OUT, "README.md"))
    path = os.path.join(OUT, "adapter_config.json")
    text = open(path).read()
    open(path, "w").write(text.replace(json.dumps(MODEL), json.dumps("tiny-llama")))
    return x


def score(model, rows, texts):
    """The mean of -log p of all tokens but the first of each text, and the
    share of them that are the likeliest."""
    total = right = 0
    for ids in texts:
        ids = torch.tensor(ids)
        x = torch.cat([rows, model.get_input_embeddings()(ids)])[None]
        with torch.no_grad():
            logits = model(inputs_embeds=x).logits[0, len(rows):].double()
        total += torch.nn.functional.cross_entropy(
            logits[:-1], ids[1:], reduction="sum").item()
        right += (logits[:-1].argmax(1) == ids[1:]).sum().item()
    n = sum(len(t) - 1 for t in texts)
    return total / n, right / n


def loss_of_peft(texts):
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(MODEL), OUT)
    total = 0
    for ids in texts:
        ids = torch.tensor([ids])
        labels = ids.clone()
        labels[0, 0] = -100
        with torch.no_grad():
            mean = peft(input_ids=ids, labels=labels).loss
        total += mean.item() * (ids.shape[1] - 1)
    return total / sum(len(t) - 1 for t in texts)


def main():
    torch.manual_seed(0)
    os.makedirs(OUT, exist_ok=True)
    make(AutoModelForCausalLM.from_pretrained(MODEL))
    model = AutoModelForCausalLM.from_pretrained(MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    x = load_file(os.path.join(OUT, "adapter_model.safetensors"))["prompt_embeddings"]
    with open(os.path.join(DATA, "nn", "heldout.jsonl")) as f:
        texts = [json.loads(line)["ids"][:40] for line in f][:3]
    with open(os.path.join(OUT, "ids.jsonl"), "w") as f:
        for ids in texts:
            f.write(json.dumps({"ids": ids}, separators=(",", ":")) + "\n")

    table = model.get_input_embeddings().weight.detach()
    p, e = x.double(), table.double()
    norms, sizes = p.norm(dim=1), e.norm(dim=1)
    s = torch.linalg.svdvals(p)
    q = s / s.sum()
    cosines = torch.nan_to_num((p / norms[:, None]) @ (e / sizes[:, None]).T, nan=-2)
    near = cosines.topk(TOP, dim=1)
    there = loss_of_peft(texts)
    assert abs(there - score(model, x, texts)[0]) < 1e-5
    virtual = []
    for i in range(N):
        left = score(model, torch.cat([x[:i], x[i + 1:]]), texts)
        virtual.append({
            "norm": norms[i].item(),
            "percentile": 100 * (sizes < norms[i]).double().mean().item(),
            "margin": (near.values[i, 0] - near.values[i, 1]).item(),
            "nearest": [{"id": int(k),
                         "text": tokenizer.convert_ids_to_tokens(int(k)),
                         "cosine": c.item()}
                        for k, c in zip(near.indices[i], near.values[i])],
            "loss_without": left[0], "accuracy_without": left[1]})
    u = p / norms[:, None]
    without, nearest = (score(model, rows, texts)
                        for rows in (x[:0], table[near.indices[:, 0]]))
    out = {"pq": 1, "tool": "pq-prompt", "tokens": N, "hidden": x.shape[1],
           "effective_rank": (-(q * q.log()).sum()).exp().item(),
           "vocabulary": {"rows": len(table), "norm_min": sizes.min().item(),
                          "norm_median": sizes.sort().values[len(table) // 2].item(),
                          "norm_max": sizes.max().item()},
           "labels": sum(len(t) - 1 for t in texts),
           "loss": there,
           "loss_without": without[0], "loss_nearest": nearest[0],
           "accuracy": score(model, x, texts)[1],
           "accuracy_without": without[1], "accuracy_nearest": nearest[1],
           "virtual": virtual, "cosines": (u @ u.T).tolist()}
    with open(os.path.join(OUT, "expected.json"), "w") as f:
        json.dump(out, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


main()
