#!/usr/bin/env python3
"""Makes testdata/masks: weights, and the masks that torch's pruning leaves.
Run from the top of the tree:

    python tests/oracle/make_masks.py

    model    matrices whose rows are whole bytes of bits and such whose rows
             are not, a vector, a stack of matrices; f32, bf16 and f16; no two
             magnitudes of a tensor are equal
    l1       torch.nn.utils.prune.l1_unstructured, amount 0.5, of each
    random   torch.nn.utils.prune.random_unstructured, amount 0.3: a mask that
             has nothing to do with the weights, and lacks `b.weight`
    and, or  `l1` and `random` together; where `random` has nothing, `l1` alone

A mask is U8 [rows][ceil(columns / 8)]: numpy.packbits, bitorder little, of
the kept ones; its metadata are what man/pq-prune.1 says.
"""
import json
import os

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.utils import prune

ROOT = "testdata/masks"
SHAPES = {
    "a.weight": ((6, 21), torch.float32),
    "b.weight": ((5, 16), torch.bfloat16),
    "c.weight": ((33,), torch.float32),
    "d.weight": ((3, 4, 10), torch.float16),
    "e.weight": ((4, 64), torch.float32),
}


def weights(shape, dtype):
    """Distinct magnitudes of both signs that the type holds exactly."""
    n = int(np.prod(shape))
    w = (torch.randperm(n) + 1).to(torch.float64) / 128
    return (w * (torch.randint(0, 2, (n,)) * 2 - 1)).reshape(shape).to(dtype)


def packed(kept):
    rows = kept.reshape(-1, kept.shape[-1]).numpy().astype(bool)
    return torch.from_numpy(np.packbits(rows, axis=-1, bitorder="little"))


def save(name, masks):
    shapes = {k: list(SHAPES[k][0]) for k in masks}
    text = json.dumps({"version": 1, "shapes": shapes}, separators=(",", ":"))
    save_file({k: packed(v) for k, v in masks.items()},
              f"{ROOT}/{name}.safetensors", {"format": "pt", "pq.mask": text})


def pruned(w, method, amount):
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(w.to(torch.float64))
    method(layer, "weight", amount=amount)
    return layer.weight_mask.bool()


def main():
    torch.manual_seed(7)
    os.makedirs(ROOT, exist_ok=True)
    model = {k: weights(*v) for k, v in SHAPES.items()}
    for w in model.values():
        assert w.abs().unique().numel() == w.numel()
    save_file(model, f"{ROOT}/model.safetensors", {"format": "pt"})
    l1 = {k: pruned(w, prune.l1_unstructured, 0.5) for k, w in model.items()}
    ln = {k: pruned(w, prune.random_unstructured, 0.3)
          for k, w in model.items() if k != "b.weight"}
    save("l1", l1)
    save("random", ln)
    save("and", {k: m & ln.get(k, m) for k, m in l1.items()})
    save("or", {k: m | ln.get(k, m) for k, m in l1.items()})


if __name__ == "__main__":
    main()
