#!/usr/bin/env python3
"""testdata/nn/train.json: gradients and losses of the models of make_nn.py,
as torch, transformers and peft compute them in float32.

Each case has two texts, that of make_nn.py and a shorter one; the loss is the
mean -log p over the labels of both.

  gradients   of every parameter: its norm, and its products with two vectors
              u(NAME, i) - 0.5, u of lib/rng.c with seed 1 and the names
              "1 " + and "2 " + that of the parameter
  losses      before each of 20 steps of AdamW, by method; decay 0.1 (full:
              matrices only), clip 1, and the learning rate that is kept here

LoRA begins with A = (2 u - 1) / sqrt(inputs), u under the name that PEFT's
files give the matrix, and B = 0; a soft prompt with the embeddings of some
tokens.
"""
import json
import os

import numpy as np
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

from make_nn import BASE, CASES, GPT2, OUT, philox, weights

GRADIENTS = """llama gpt2 qwen3 llama-tied llama-biases mistral qwen2
qwen2-window gemma2 phi3-partial gpt2-scales""".split()
TRAINED = "llama gpt2 qwen3".split()
PROMPT = [3, 17, 8, 30, 5]
STEPS = 20
RATES = {"full": 1e-3, "lora": 1e-2, "rslora": 3e-3, "dora": 1e-2,
         "prompt": 1e-1}
LINEAR = {"gpt2": ["c_attn", "c_proj", "c_fc"]}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
       "down_proj"]


def load(name):
    kind, extra, n = CASES[name]
    config = CONFIG_MAPPING[kind](**((GPT2 if kind == "gpt2" else BASE)
                                     | extra))
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for key, p in model.named_parameters():
            conv1d = kind == "gpt2" and p.dim() == 2 and "c_" in key
            p.copy_(weights(key, tuple(p.shape), conv1d))
    if getattr(config, "pad_token_id", None) is not None and kind != "gpt2":
        assert model.get_input_embeddings().padding_idx is not None
    texts = [(philox("ids of " + name, n) * 32).astype(np.int64),
             (philox("more ids of " + name, 9) * 32).astype(np.int64)]
    return kind, model.train(), texts


def loss_of(model, texts, first):
    """The mean over all labels; the first token counts behind a prompt."""
    sums, n = 0, 0
    for ids in texts:
        t = torch.from_numpy(ids)[None]
        count = len(ids) - 1 + first
        sums = sums + count * model(input_ids=t, labels=t, use_cache=False,
                                    attention_mask=torch.ones_like(t)).loss
        n += count
    return sums / n


def summary(name, g):
    g = g.reshape(-1).double().numpy()
    out = [float(np.sqrt((g * g).sum()))]
    for k in "12":
        v = philox(k + " " + name, len(g)).astype(np.float64) - 0.5
        out.append(float((g * v).sum()))
    return out


def gradients(name):
    _, model, texts = load(name)
    loss = loss_of(model, texts, 0)
    loss.backward()
    return dict(loss=loss.item(), parameters={
        key: summary(key, p.grad) for key, p in model.named_parameters()})


def with_adapter(kind, model, method):
    if method == "full":
        return model
    if method == "prompt":
        peft = get_peft_model(model, PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=len(PROMPT)))
        with torch.no_grad():
            peft.prompt_encoder["default"].embedding.weight.copy_(
                model.get_input_embeddings().weight[PROMPT])
        return peft
    peft = get_peft_model(model, LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, use_dora=method == "dora",
        use_rslora=method == "rslora",
        target_modules=LINEAR.get(kind, ALL), task_type="CAUSAL_LM"))
    with torch.no_grad():
        for key, p in peft.named_parameters():
            if "lora_A" in key:
                u = philox(key.replace(".default", ""), p.numel())
                a = (u * 2 - 1) * np.float32(p.shape[1] ** -0.5)
                p.copy_(torch.from_numpy(a.reshape(p.shape)))
    return peft


def train(name, method):
    kind, model, texts = load(name)
    model = with_adapter(kind, model, method).train()
    ps = [(k, p) for k, p in model.named_parameters() if p.requires_grad]
    decays = [p for k, p in ps if p.dim() == 2 or method != "full"]
    rest = [p for k, p in ps if not (p.dim() == 2 or method != "full")]
    adamw = torch.optim.AdamW([dict(params=decays, weight_decay=0.1),
                               dict(params=rest, weight_decay=0.0)],
                              lr=RATES[method])
    losses = []
    for _ in range(STEPS):
        adamw.zero_grad()
        loss = loss_of(model, texts, method == "prompt")
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in ps], 1.0)
        adamw.step()
        losses.append(loss.item())
    return losses


def main():
    torch.set_num_threads(1)
    out = dict(prompt=PROMPT, rates=RATES, cases=[])
    for name in GRADIENTS:
        case = dict(name=name, **gradients(name))
        if name in TRAINED:
            case["losses"] = {m: train(name, m) for m in RATES}
        print(name, case["loss"], {m: (v[0], v[-1]) for m, v in
                                   case.get("losses", {}).items()})
        out["cases"].append(case)
    text = ",\n".join(json.dumps(c) for c in out.pop("cases"))
    with open(os.path.join(OUT, "train.json"), "w") as f:
        f.write(json.dumps(out)[:-1] + ', "cases": [\n' + text + "\n]}\n")


if __name__ == "__main__":
    main()
