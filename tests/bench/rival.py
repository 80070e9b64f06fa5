"""What a user would pick instead of pq: torch, bitsandbytes, safetensors.

    rival.py nf4|f16|bf16|int8 FILE OUT    quantize or cast, save_file
    rival.py keys FILE                     safe_open and keys()

Prints the seconds of the work itself on stdout: imports are not counted, as
a user may have them loaded already.
"""

import sys
import time


def linear(name, t):
    """The weights that pq-quantize chooses too."""
    return (t.ndim == 2 and name.endswith(".weight")
            and "embed" not in name and not name.startswith("lm_head"))


def nf4(tensors):
    from bitsandbytes.functional import quantize_4bit

    out = {}
    for name, t in tensors():
        if not linear(name, t):
            out[name] = t
            continue
        codes, state = quantize_4bit(t, blocksize=64, quant_type="nf4")
        out[name] = codes
        for key, value in state.as_dict(packed=True).items():
            out[f"{name}.{key}"] = value
    return out


def int8(tensors):
    """LLM.int8 rows as torch computes them: scale, round, clamp."""
    import torch

    out = {}
    for name, t in tensors():
        if not linear(name, t):
            out[name] = t
            continue
        half = t.to(torch.float16)
        absmax = half.abs().amax(dim=1).float()
        scale = 127.0 / absmax.clamp_min(1e-30)
        out[name] = (half.float() * scale[:, None]).round_().to(torch.int8)
        out[name.replace("weight", "SCB")] = absmax
    return out


def cast(tensors, dtype):
    return {name: t.to(dtype) for name, t in tensors()}


def convert(kind, path, target):
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    if kind == "nf4":
        import bitsandbytes  # noqa: F401  (its import is not counted)

    start = time.perf_counter()
    with safe_open(path, "pt") as f:
        def tensors():
            return ((k, f.get_tensor(k)) for k in f.keys())

        if kind == "nf4":
            out = nf4(tensors)
        elif kind == "int8":
            out = int8(tensors)
        else:
            out = cast(tensors, {"f16": torch.float16,
                                 "bf16": torch.bfloat16}[kind])
        save_file(out, target, metadata={"format": "pt"})
    return time.perf_counter() - start


def keys(path):
    from safetensors import safe_open

    start = time.perf_counter()
    with safe_open(path, "np") as f:
        n = len(list(f.keys()))
    seconds = time.perf_counter() - start
    assert n > 0
    return seconds


def main():
    kind, path = sys.argv[1:3]
    seconds = keys(path) if kind == "keys" else convert(kind, path,
                                                        sys.argv[3])
    print(f"{seconds:.6f}")


main()
