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

Of the methods,

  neftune     is LoRA with the noise of transformers on the embeddings, of
              alpha 5 and the numbers of "neftune STEP"
  sparse      is full with masks as torch.nn.utils.prune's l1_unstructured
              finds them in the weights of all linear layers but the head,
              before some steps (the cubic schedule); what is masked is also out of AdamW
  sparse-T    runs with those weights rounded by bitsandbytes; the gradient
              goes to floats beside them

LoRA begins with A = (2 u - 1) / sqrt(inputs), u under the name that PEFT's
files give the matrix, and B = 0; a soft prompt with the embeddings of some
tokens.
"""
import json
import os

import bitsandbytes.functional as bnb
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
         "prompt": 1e-1, "neftune": 1e-2, "sparse": 1e-3, "sparse-nf4": 1e-3,
         "sparse-int8": 1e-3}
NEFTUNE = 5
HELD = {2 + 3 * i: 0.7 - 0.7 * (1 - i / 4) ** 3 for i in range(5)}
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


def add_noise(model, texts):
    """NEFTune as transformers adds it; returns what tells it the step."""
    at = dict(step=0, row=0)
    rows = sum(len(t) for t in texts)

    def hook(_, __, out):
        n, h = out.shape[1:]
        u = philox(f"neftune {at['step']}", rows * h).reshape(rows, h)
        mag = NEFTUNE / torch.sqrt(torch.tensor(float(n * h)))
        noise = torch.from_numpy(u[at["row"]:at["row"] + n] * 2 - 1)
        at["row"] = (at["row"] + n) % rows
        return out + noise * mag

    model.get_input_embeddings().register_forward_hook(hook)
    return at


def linear_weights(kind, model):
    names = LINEAR.get(kind, ALL)
    return [m.weight for k, m in model.named_modules()
            if k.split(".")[-1] in names]


def rounded(w, encoding):
    """[out][in] as bitsandbytes stores and reads it."""
    if encoding == "nf4":  # flat: on CPU it misreads rows shorter than a block
        return bnb.dequantize_4bit(*bnb.quantize_4bit(
            w.reshape(-1), blocksize=64, quant_type="nf4")).reshape(w.shape)
    q, scale, _ = bnb.int8_vectorwise_quant(w.half())
    return bnb.int8_vectorwise_dequant(q, scale)


class Sparse:
    """Masks and rounding around the steps of an optimiser."""

    def __init__(self, kind, model, encoding):
        self.ws = linear_weights(kind, model)
        self.turn = kind == "gpt2"
        self.encoding = encoding
        self.masks = [torch.ones_like(w) for w in self.ws]
        self.round()

    def round(self):
        self.exact = [w.detach().clone() for w in self.ws]
        for w in self.ws if self.encoding else []:
            t = rounded(w.detach().T if self.turn else w.detach(),
                        self.encoding)
            w.data.copy_(t.T if self.turn else t)

    def before_step(self, step, adamw):
        for w, exact, mask in zip(self.ws, self.exact, self.masks):
            w.data.copy_(exact)
            if step in HELD:
                n = int(HELD[step] * w.numel())
                mask.fill_(1)
                if n:
                    mask.view(-1)[w.detach().abs().view(-1).topk(
                        n, largest=False).indices] = 0
                for x in (w.data, *(adamw.state[w][k] for k in
                                    ("exp_avg", "exp_avg_sq"))):
                    x.mul_(mask)
            w.grad.mul_(mask)


def with_adapter(kind, model, method):
    if method == "full" or method.startswith("sparse"):
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
    noise = add_noise(model, texts) if method == "neftune" else {}
    model = with_adapter(kind, model, method).train()
    sparse = None
    if method.startswith("sparse"):
        sparse = Sparse(kind, model, method[7:])
    ps = [(k, p) for k, p in model.named_parameters() if p.requires_grad]
    adapts = method != "full" and not sparse
    decays = [p for k, p in ps if p.dim() == 2 or adapts]
    rest = [p for k, p in ps if not (p.dim() == 2 or adapts)]
    adamw = torch.optim.AdamW([dict(params=decays, weight_decay=0.1),
                               dict(params=rest, weight_decay=0.0)],
                              lr=RATES[method])
    losses = []
    for step in range(STEPS):
        noise["step"] = step
        adamw.zero_grad()
        loss = loss_of(model, texts, method == "prompt")
        loss.backward()
        if sparse:
            sparse.before_step(step, adamw)
        torch.nn.utils.clip_grad_norm_([p for _, p in ps], 1.0)
        adamw.step()
        if sparse:
            sparse.round()
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
