#!/usr/bin/env python3
"""Makes testdata/prune: a model whose magnitudes are all different within a
tensor, and what torch.nn.utils.prune, the row-wise rule of Wanda without data
and the N:M rule of Wanda and llm-compressor leave of it.

    make_prune.py [DIR]

cases.tsv has a line a golden: the file, a tab, the options of pq-prune.
Torch multiplies with its mask, which makes -0 of what is negative; in the
goldens it is +0.
"""
import argparse
import copy
import os

import torch
import torch.nn.utils.prune as prune
from safetensors.torch import save_file

LINEAR = {  # name: shape, type; the Conv1D is stored [in, out]
    "model.layers.0.mlp.up_proj.weight": ((24, 40), torch.float32),
    "model.layers.0.mlp.down_proj.weight": ((16, 48), torch.bfloat16),
    "model.layers.1.mlp.up_proj.weight": ((12, 32), torch.float16),
    "model.layers.1.mlp.gate_proj.weight": ((8, 16), torch.float32),
    "h.0.mlp.c_fc.weight": ((16, 24), torch.float32),
}
OTHER = {"model.embed_tokens.weight": (10, 8), "model.norm.weight": (40,),
         "lm_head.weight": (10, 8)}
BITS = {torch.bfloat16: (torch.int16, 0x3b00, 1),
        torch.float16: (torch.int16, 0x1400, 7)}


def magnitudes(shape, dtype, generator):
    """Different ones: consecutive bit patterns of a type, shuffled."""
    n = torch.Size(shape).numel()
    order = torch.randperm(n, generator=generator)
    if dtype == torch.float32:
        return (torch.randn(n, generator=generator).abs() * 0.02)[order]
    ints, first, step = BITS[dtype]
    return (order * step + first).to(ints).view(dtype)


def make_model():
    g = torch.Generator().manual_seed(2306)
    tensors = {}
    for name, (shape, dtype) in LINEAR.items():
        x = magnitudes(shape, dtype, g)
        if "gate" in name:  # subnormal numbers
            x = (torch.randperm(x.numel(), generator=g) + 1) \
                .to(torch.int32).view(torch.float32)
        sign = torch.randint(0, 2, x.shape, generator=g) * 2 - 1
        tensors[name] = (x * sign.to(dtype)).reshape(shape)
        distinct = tensors[name].abs().float().unique().numel()
        assert distinct == x.numel(), name
    for name, shape in OTHER.items():
        tensors[name] = torch.randn(shape, generator=g)
    return tensors


class Holder(torch.nn.Module):
    def __init__(self, w):
        super().__init__()
        self.weight = torch.nn.Parameter(w.clone(), requires_grad=False)


def with_torch(tensors, amount, method):
    out = copy.deepcopy(tensors)
    modules = {n: Holder(tensors[n]) for n in LINEAR}
    if method == "global":
        prune.global_unstructured([(m, "weight") for m in modules.values()],
                                  prune.L1Unstructured, amount=amount)
    for name, m in modules.items():
        if method == "l1":
            prune.l1_unstructured(m, "weight", amount)
        out[name] = torch.where(m.weight_mask.bool(), tensors[name], 0)
    return out


def in_rows(tensors, choose):
    """choose: scores [outputs][inputs] to the places that go, each row."""
    out = copy.deepcopy(tensors)
    for name in LINEAR:
        w = tensors[name].T if ".c_fc." in name else tensors[name]
        gone = torch.zeros(w.shape, dtype=torch.bool)
        gone.scatter_(1, choose(w.abs().float()), True)
        w = torch.where(gone, torch.zeros((), dtype=w.dtype), w)
        out[name] = (w.T if ".c_fc." in name else w).contiguous()
    return out


def wanda_rows(sparsity):
    return lambda s: torch.sort(s, dim=-1, stable=True)[1][
        :, :int(s.shape[1] * sparsity)]


def n_of_m(n, m):
    """The m - n smallest of each m that follow each other go."""
    return lambda s: torch.cat(
        [at + torch.topk(s[:, at:at + m], m - n, dim=1, largest=False)[1]
         for at in range(0, s.shape[1], m)], 1)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("dir", nargs="?", default="testdata/prune")
    root = p.parse_args().dir
    os.makedirs(root, exist_ok=True)
    model = make_model()
    cases = {
        "l1-50": ("-s 0.5", with_torch(model, 0.5, "l1")),
        "l1-37": ("-s 0.37", with_torch(model, 0.37, "l1")),
        "global-50": ("-s 0.5 --scope global",
                      with_torch(model, 0.5, "global")),
        "global-81": ("-s 0.81 --scope global",
                      with_torch(model, 0.81, "global")),
        "row-45": ("-s 0.45 --scope row", in_rows(model, wanda_rows(0.45))),
        "2of4": ("--pattern 2:4", in_rows(model, n_of_m(2, 4))),
        "3of8": ("--pattern 3:8", in_rows(model, n_of_m(3, 8))),
    }
    save_file(model, f"{root}/model.safetensors", {"format": "pt"})
    with open(f"{root}/cases.tsv", "w", encoding="utf-8") as f:
        for name, (options, tensors) in cases.items():
            save_file(tensors, f"{root}/{name}.safetensors", {"format": "pt"})
            f.write(f"{name}\t{options}\n")


if __name__ == "__main__":
    main()
