"""What a user would pick instead of pq-merge and pq-extract: PEFT, mergekit,
torch.linalg.svd.

    rival_surgery.py peft BASE ADAPTER OUT   load, merge_and_unload, save
    rival_surgery.py svd BASE TUNED RANK     dense SVD of each difference
    rival_surgery.py resize ADAPTER RANK     dense SVD of each product
    rival_surgery.py prune FILE OUT          the smaller half of all weights
    rival_surgery.py mergekit linear OUT A B
    rival_surgery.py mergekit ties OUT A B BASE

Prints the seconds of the work itself on stdout: imports are not counted.
svd measures one tensor of each shape and counts it as often as the shape
occurs; resize measures the first layer, and that is what it prints.  Both say
so on stderr.
"""

import contextlib
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def peft(base, adapter, out):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, adapter)
    model.merge_and_unload().save_pretrained(out)
    return time.perf_counter() - start


def factors(delta, rank):
    import torch

    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def by_shape(f):
    out = {}
    for name in f.keys():
        shape = tuple(f.get_slice(name).get_shape())
        if len(shape) == 2 and "layers" in name:
            out.setdefault(shape, []).append(name)
    return out


def svd(base, tuned, rank):
    from safetensors import safe_open

    total = 0.0
    with safe_open(f"{base}/model.safetensors", "pt") as f, \
            safe_open(f"{tuned}/model.safetensors", "pt") as g:
        shapes = by_shape(f)
        for names in shapes.values():
            start = time.perf_counter()
            a, b = (x.get_tensor(names[0]).float() for x in (f, g))
            factors(b - a, int(rank))
            total += (time.perf_counter() - start) * len(names)
    print(f"note dense SVD: {len(shapes)} tensors measured, one of each shape,"
          f" and counted for {sum(map(len, shapes.values()))}",
          file=sys.stderr)
    return total


def resize(adapter, rank):
    from safetensors import safe_open

    start = time.perf_counter()
    with safe_open(f"{adapter}/adapter_model.safetensors", "pt") as f:
        for a in f.keys():
            if ".layers.0." in a and a.endswith("lora_A.weight"):
                b = f.get_tensor(a.replace("lora_A", "lora_B")).float()
                factors(b @ f.get_tensor(a).float(), int(rank))
    print("note dense resize: the first layer measured", file=sys.stderr)
    return time.perf_counter() - start


def mergekit(method, out, a, b, base=None):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    each = {"weight": 0.5} | ({"density": 0.5} if base else {})
    recipe = {"merge_method": method, "dtype": "bfloat16",
              "models": [{"model": m, "parameters": each} for m in (a, b)]}
    if base:
        recipe["base_model"] = base
    start = time.perf_counter()
    run_merge(MergeConfiguration.model_validate(recipe), out, MergeOptions(
        quiet=True, copy_tokenizer=False, write_model_card=False))
    return time.perf_counter() - start


def prune(path, out):
    import torch
    from safetensors.torch import load_file, save_file

    start = time.perf_counter()
    tensors = load_file(path)
    linear = [n for n, w in tensors.items() if w.dim() == 2 and "layers" in n]
    sizes = torch.cat([tensors[n].abs().flatten() for n in linear])
    limit = sizes.kthvalue(len(sizes) // 2).values
    del sizes
    for name in linear:
        w = tensors[name]
        tensors[name] = torch.where(w.abs() > limit, w, 0)
    save_file(tensors, out)
    return time.perf_counter() - start


def main():
    with contextlib.redirect_stdout(sys.stderr):
        seconds = {"peft": peft, "svd": svd, "resize": resize,
                   "mergekit": mergekit,
                   "prune": prune}[sys.argv[1]](*sys.argv[2:])
    print(f"{seconds:.6f}")


main()
