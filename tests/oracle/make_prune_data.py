#!/usr/bin/env python3
"""Makes testdata/prune_data: weights, what a calibration run would have
written about their inputs, and what Wanda and SparseGPT make of them.  Run
from the top of the tree:

    python tests/oracle/make_prune_data.py

    model     up_proj [12][132] f32: two blocks of SparseGPT, the second of 4
              q_proj  [24][48] bf16: of its inputs number 7 and 30 are always 0
              c_attn  [40][24] f32, a Conv1D: [in][out]
    norms     sqrt(mean x^2) of each input
    hessian   mean x x^T
    METHOD-PATTERN   the model pruned: 0.5 and 0.3 are sparsities, 2of4 keeps
              two of four

    llama-norms    of testdata/tiny-llama on its heldout.txt, all linear layers
    llama-hessian  the same, of the first o_proj

The made inputs are correlated, some of them a hundred times larger than
others, as those of language models are.  The rules are written down here anew, in torch's
f32, from
    Wanda      Sun et al. 2306.11695; locuslab/wanda lib/prune.py
    SparseGPT  Frantar and Alistarh 2301.00774; IST-DASLab/sparsegpt
               sparsegpt.py, with blocks of 128 and 1 % damping
and must find the same mask in f64, so that no test hangs on the last bit.
"""
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = "testdata/prune_data"
UP = "model.layers.0.mlp.up_proj.weight"
Q = "model.layers.0.self_attn.q_proj.weight"
CONV1D = "transformer.h.0.attn.c_attn.weight"
TOKENS = 700
BLOCK = 128


def inputs(n, dead=()):
    """[TOKENS][n], correlated, of very different sizes."""
    few = torch.randn(TOKENS, n // 3, dtype=torch.float64)
    x = few @ torch.randn(n // 3, n, dtype=torch.float64) / (n // 3) ** 0.5
    x += 0.3 * torch.randn(TOKENS, n, dtype=torch.float64)
    x *= torch.exp(torch.randn(n, dtype=torch.float64))
    x[:, list(dead)] = 0
    return x


def smallest(score, n, m):
    """The mask of the n smallest in each m of a row; ties: the first."""
    rows, cols = score.shape
    order = score.reshape(rows, cols // m, m).sort(dim=-1, stable=True).indices
    mask = torch.zeros(rows, cols // m, m, dtype=torch.bool)
    return mask.scatter_(2, order[..., :n], True).reshape(rows, cols)


def wanda(w, norm, hessian, s, n, m, dtype):
    score = w.to(dtype).abs() * norm.to(dtype)
    cols = w.shape[1]
    mask = smallest(score, n, m) if m else smallest(score, int(cols * s), cols)
    return torch.where(mask, torch.zeros_like(w), w)


def inverse_factor(h):
    """Upper triangular U with U^T U = (H + damping)^-1."""
    h = h + torch.eye(len(h), dtype=h.dtype) * (0.01 * h.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True)


def sparsegpt(w, norm, hessian, s, n, m, dtype):
    w, h = w.to(dtype).clone(), hessian.to(dtype).clone()
    dead = h.diagonal() == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    u = inverse_factor(h)
    for a in range(0, w.shape[1], BLOCK):
        b = min(a + BLOCK, w.shape[1])
        block, ub = w[:, a:b].clone(), u[a:b, a:b]
        d = ub.diagonal()
        errors = torch.zeros_like(block)
        mask = torch.zeros_like(block, dtype=torch.bool)
        if not m:
            score = block ** 2 / d ** 2
            order = score.flatten().sort().values
            mask = score <= order[int(score.numel() * s)]
        for i in range(b - a):
            if m and i % m == 0:
                score = block[:, i:i + m] ** 2 / d[i:i + m] ** 2
                mask[:, i:i + m] = smallest(score, n, m)
            errors[:, i] = torch.where(mask[:, i], block[:, i], 0) / d[i]
            block[:, i:] -= errors[:, i, None] * ub[i, i:]
            block[mask[:, i], i] = 0
        w[:, a:b] = block
        w[:, b:] -= errors @ u[a:b, b:]
    return w


CASES = {"0.5": (0.5, 0, 0), "0.3": (0.3, 0, 0), "2of4": (0, 2, 4)}
METHODS = {"wanda": (wanda, ("0.5", "0.3", "2of4")),
           "sparsegpt": (sparsegpt, ("0.5", "0.3", "2of4"))}


def prune(rule, name, w, data, case):
    """As [out][in], in f32; f64 must agree on what goes."""
    turned = w.T if name == CONV1D else w
    f32 = rule(turned.float(), *data[name], *CASES[case], torch.float32)
    f64 = rule(turned.float(), *data[name], *CASES[case], torch.float64)
    assert torch.equal(f32 == 0, f64 == 0), (name, case)
    assert (f32 - f64).norm() <= 3e-6 * f64.norm(), (name, case)
    return (f32.T if name == CONV1D else f32).to(w.dtype).contiguous()


LLAMA = "model.layers.0.self_attn.o_proj.weight"


def llama_inputs():
    """What the linear layers of tiny-llama see of heldout.txt, in windows."""
    folder = "testdata/tiny-llama"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(
        open(f"{folder}/heldout.txt").read()).input_ids
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(
                lambda m, x, k=name + ".weight": seen.setdefault(k, []).append(
                    x[0].detach().double().flatten(0, -2)))
    with torch.no_grad():
        for at in range(0, len(ids), 256):
            model(torch.tensor([ids[at:at + 256]]))
    return {k: torch.cat(v) for k, v in seen.items()}


def main():
    torch.manual_seed(11)
    torch.set_num_threads(1)
    os.makedirs(ROOT, exist_ok=True)
    model = {UP: torch.randn(12, 132) * 0.05,
             Q: (torch.randn(24, 48) * 0.08).bfloat16(),
             CONV1D: torch.randn(40, 24) * 0.1}
    x = {UP: inputs(132), Q: inputs(48, dead=(7, 30)), CONV1D: inputs(40)}
    data = {k: ((v ** 2).mean(0).sqrt().float(), (v.T @ v / TOKENS).float())
            for k, v in x.items()}
    tokens = TOKENS

    def save(name, tensors, kind):
        save_file(tensors, f"{ROOT}/{name}.safetensors",
                  {"format": "pt", "pq.kind": kind, "pq.tokens": str(tokens)})

    save_file(model, f"{ROOT}/model.safetensors", {"format": "pt"})
    save("norms", {k: v[0] for k, v in data.items()}, "norms")
    save("hessian", {k: v[1] for k, v in data.items()}, "hessian")
    x = llama_inputs()
    tokens = len(next(iter(x.values())))
    save("llama-norms", {k: (v ** 2).mean(0).sqrt().float()
                         for k, v in x.items()}, "norms")
    save("llama-hessian",
         {LLAMA: (x[LLAMA].T @ x[LLAMA] / tokens).float()}, "hessian")
    for method, (rule, cases) in METHODS.items():
        for case in cases:
            pruned = {k: prune(rule, k, w, data, case)
                      for k, w in model.items()}
            save_file(pruned, f"{ROOT}/{method}-{case}.safetensors",
                      {"format": "pt"})


if __name__ == "__main__":
    sys.exit(main())
