#!/usr/bin/env python3
"""Make testdata/golden/*.safetensors: inputs and what bitsandbytes' CPU path and torch make of them.

    HF_HUB_OFFLINE=1 python tests/oracle/make_goldens.py [--out DIR]

Every file holds its inputs and its outputs; manifest.json says which belong together.  Inputs come from
splitmix64 and from lists of bit patterns, never from a library's random numbers.  Then quant_state.json
records what transformers writes for testdata/tiny-llama.
"""
import argparse
import json
import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import bitsandbytes as bnb
import bitsandbytes.functional as F
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from grammar import Dice

HERE = os.path.dirname(os.path.abspath(__file__))
FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


# ---- inputs ----------------------------------------------------------------

def bell(n, seed, scale=0.02):
    """n values, the sum of four uniforms less two: a rounded hump around 0."""
    d = Dice(seed)
    v = [sum(d.next() >> 11 for _ in range(4)) * 2.0 ** -53 - 2.0 for _ in range(n)]
    return torch.tensor(np.array(v, dtype=np.float64) * scale, dtype=torch.float64).float()


def inputs():
    """name -> f32 tensor.  Sizes have tails, odd counts and several blocks of each size."""
    mixed = bell(1031, 12)
    mixed[64:128] = 0                                # a full zero block (64) inside
    mixed[128:192] = -mixed[128:192].abs()           # negative only
    mixed[192:256] = mixed[192:256].abs()            # positive only
    mixed[256:320] *= 1e-40 / 0.02                   # denormals
    mixed[320:384] *= 5e37                              # huge, still finite in f32 and bf16
    mixed[384:448] = 0.5                             # all equal
    mixed[448:512] = -0.0
    mixed[512:576] = torch.linspace(-1, 1, 64)
    mixed[576] = 37.0                                # an outlier
    mixed[640:704] *= 1e-37                          # near the 1e-38 clamp
    mixed[704:768] = torch.arange(64) % 3 - 1        # -1 0 1
    tail0 = bell(133, 13)
    tail0[128:] = 0                                  # a zero tail for 32, 64 and 128
    tail0[0:32] = 0
    ties = torch.zeros(576)                          # scaled values exactly on and beside midpoints
    for k, kind in enumerate(["nf4", "fp4"]):
        c = torch.sort(F.get_4bit_type(kind, device="cpu").float()).values
        m = ((c[:-1] + c[1:]) / 2).numpy()
        m = np.concatenate([np.nextafter(m, np.float32(-2)), m, np.nextafter(m, np.float32(2))])
        full = torch.zeros(64)
        full[:45] = torch.from_numpy(m[:45])
        full[63] = 1.0
        ties[k * 64:k * 64 + 64] = full
        ties[128 + k * 64:192 + k * 64] = full * 3.0   # the reciprocal of 3 is inexact
        ties[256 + k * 64:320 + k * 64] = full * -0.7
        ties[384 + k * 64:448 + k * 64] = full * 2.0 ** -20
    ties[512:557] = torch.from_numpy(m[:45]) * 5.0
    ties[575] = 5.0
    return {
        "bell": bell(2048, 11),
        "mixed": mixed,
        "tail0": tail0,
        "ties": ties,
        "ties_tail": torch.cat([ties[:64], ties[128:128 + 46], torch.tensor([3.0])]),
        "one": torch.tensor([-0.37]),
        "three": torch.tensor([0.1, -0.2, 0.05]),
        "zero65": torch.zeros(65),
        "big9000": bell(9001, 14),
    }


def as_half_safe(x):
    """The same values with those that f16 cannot hold made smaller."""
    return torch.where(x.abs() > 60000, x * 1e-33, x)


def typed(x, dtype):
    return (as_half_safe(x) if dtype == "f16" else x).to(FLOATS[dtype])


# ---- one file an encoding --------------------------------------------------

class Book:
    """Collects tensors of a file and the manifest's lines."""

    def __init__(self, out):
        self.out, self.cases, self.tensors = out, [], {}

    def put(self, name, t):
        self.tensors[name] = t.detach().contiguous().reshape(-1) if t.dim() != 2 else t.detach().contiguous()

    def save(self, name, n_cases):
        path = os.path.join(self.out, name + ".safetensors")
        save_file({k: v.clone() for k, v in self.tensors.items()}, path, metadata={"format": "pt"})
        os.chmod(path, 0o644)
        print(f"{name}.safetensors {os.path.getsize(path)} bytes, {n_cases} cases")
        self.tensors = {}


def four_bit(book, kind):
    n_cases = 0
    for name, x in inputs().items():
        for dtype in FLOATS:
            if name == "big9000" and (dtype != "f32" or kind == "fp4"):
                continue
            src = f"{name}.{dtype}"
            t = typed(x, dtype)
            book.put("in." + src, t)
            blocks = [4096] if name == "big9000" else [32, 64, 128]
            for bs in blocks:
                for dq in (False, True):
                    if dq and (bs == 128 or (dtype != "f32" and name != "bell")):
                        continue
                    case = f"{kind}.{bs}{'.dq' if dq else ''}.{src}"
                    q, st = F.quantize_4bit(t, blocksize=bs, quant_type=kind, compress_statistics=dq)
                    book.put(case + ".codes", q.reshape(-1))
                    book.put(case + ".absmax", st.absmax)
                    entry = dict(file=kind, case=case, encoding=kind, block=bs, input="in." + src,
                                 dtype=dtype, n=t.numel(), double_quant=dq, codes=case + ".codes",
                                 absmax=case + ".absmax")
                    if dq:
                        book.put(case + ".nested_absmax", st.state2.absmax)
                        book.put(case + ".offset", st.offset.reshape(1))
                        entry.update(nested_absmax=case + ".nested_absmax", offset=case + ".offset",
                                     nested_block=st.state2.blocksize)
                    # Back to the input's dtype, and for f32 inputs at 64 to all three.
                    wanted = FLOATS if dtype == "f32" and bs == 64 and name in ("mixed", "bell") else [dtype]
                    for back in wanted:
                        st.dtype = FLOATS[back]
                        book.put(f"{case}.out.{back}", F.dequantize_4bit(q, st))
                        entry["out_" + back] = f"{case}.out.{back}"
                    book.cases.append(entry)
                    n_cases += 1
    book.put("quant_map." + kind, F.get_4bit_type(kind, device="cpu"))
    book.save(kind, n_cases)


def eight_bit_block(book):
    n_cases = 0
    grid = torch.arange(-2048, 2048).float() / 2047.5      # every neighbourhood of the map
    for name, x in {**{k: v for k, v in inputs().items()}, "grid": grid}.items():
        for dtype in FLOATS:
            if name in ("big9000", "ties_tail", "three") and dtype != "f32":
                continue
            src = f"{name}.{dtype}"
            t = typed(x, dtype)
            book.put("in." + src, t)
            for bs in ([4096] if name in ("big9000", "grid") else [64, 256, 4096]):
                if dtype != "f32" and bs == 4096 and name != "grid":
                    continue
                case = f"int8_block.{bs}.{src}"
                q, st = F.quantize_blockwise(t, blocksize=bs)
                book.put(case + ".codes", q)
                book.put(case + ".absmax", st.absmax)
                entry = dict(file="int8_block", case=case, encoding="int8_block", block=bs, input="in." + src,
                             dtype=dtype, n=t.numel(), codes=case + ".codes", absmax=case + ".absmax")
                for back in (FLOATS if dtype == "f32" and bs == 256 and name in ("mixed", "bell") else [dtype]):
                    st.dtype = FLOATS[back]
                    book.put(f"{case}.out.{back}", F.dequantize_blockwise(q, st))
                    entry["out_" + back] = f"{case}.out.{back}"
                book.cases.append(entry)
                n_cases += 1
    book.put("quant_map.dynamic", F.create_dynamic_map())
    book.save("int8_block", n_cases)


def eight_bit_rows(book):
    n_cases = 0
    x = bell(24 * 65, 21).reshape(24, 65)
    x[3] = 0
    x[4] = -0.0
    x[5] = -x[5].abs()
    x[6] *= 1e-6          # f16 subnormals after the cast
    x[7] *= 1e-8          # f16 zeros after the cast, mostly
    x[8] *= 1e5
    x[9] = torch.arange(65) - 32.0
    x[10] = (torch.arange(65) - 32.0) / 254       # ties
    x[10, 0] = 0.5
    x[11] = 65504.0
    x[12, 0] = 1.0
    x[13] = (torch.arange(65) + 0.5) / 127        # half steps of a scale of one
    x[13, 64] = 1.0
    x[13, :64] = x[13, :64].clamp(max=1)
    for name, w in {"rows": x, "wide": bell(3 * 257, 22).reshape(3, 257), "one": torch.tensor([[0.3]])}.items():
        for dtype, torch_type in FLOATS.items():
            t = w.to(torch_type)
            if dtype == "bf16":
                t = t.clamp(-65280, 65280)
            src = f"{name}.{dtype}"
            case = "int8." + src
            q, scb, _ = F.int8_vectorwise_quant(t.to(torch.float16))
            book.put("in." + src, t)
            book.put(case + ".codes", q)
            book.put(case + ".SCB", scb)
            entry = dict(file="int8", case=case, encoding="int8", input="in." + src, dtype=dtype,
                         rows=w.shape[0], cols=w.shape[1], n=w.numel(), codes=case + ".codes", SCB=case + ".SCB")
            out = F.int8_vectorwise_dequant(q, scb)
            book.put(case + ".out.f32", out)
            book.put(case + ".out.f16", out.to(torch.float16))
            book.put(case + ".out.bf16", out.to(torch.bfloat16))
            entry.update({"out_" + k: f"{case}.out.{k}" for k in FLOATS})
            book.cases.append(entry)
            n_cases += 1
    book.save("int8", n_cases)


# ---- casts -----------------------------------------------------------------

def f32_patterns():
    """About 4096 bit patterns: around every rounding edge of the narrow types, and a scatter."""
    bits = set()
    for e in range(0, 256):                                   # every exponent, a few mantissas
        for m in (0, 1, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFF):
            bits.add(e << 23 | m)
    for shift in (13, 16, 20, 21):                            # f16 bf16 e4m3 e5m2 keep 23-shift bits
        for e in (103, 112, 113, 117, 118, 120, 121, 126, 127, 134, 135, 142, 143, 254):
            for lead in (0, 1, 2, 3, (1 << (23 - shift)) - 2, (1 << (23 - shift)) - 1):
                for low in (-1, 0, 1):
                    m = (lead << shift) + (1 << (shift - 1)) + low
                    bits.add((e << 23) + m)
    for e in range(100, 122):                                 # subnormal results: ties at every depth
        for lead in range(0, 4):
            for low in (0, 1):
                bits.add((e << 23) + (lead << 21) + low)
    for b in (0x477FE000, 0x477FEFFF, 0x477FF000, 0x477FF001, 0x47800000,     # f16 overflow
              0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF,                            # bf16 overflow
              0x43E00000, 0x43E7FFFF, 0x43E80000, 0x43E80001, 0x43F00000,     # e4m3: 448, 464, 480
              0x47600000, 0x476FFFFF, 0x47700000, 0x47700001,                 # e5m2: 57344, 61440
              0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FC00001, 0x7FFFFFFF, 0x7F812345):
        bits.add(b)
    bits |= {b | 0x80000000 for b in list(bits) if b % 3 == 0 or b >= 0x7F000000}
    d = Dice(31)
    while len(bits) < 4096:
        bits.add(d.next() >> 32)
    return np.array(sorted(bits), dtype=np.uint32)


def f64_patterns(f32):
    """The f32 values widened, and doubles one step beside the f32 midpoints."""
    with np.errstate(all="ignore"):
        wide = f32.view(np.float32)[::4].astype(np.float64).view(np.uint64)
        base = f32.view(np.float32)[1::8].astype(np.float64).view(np.uint64)
    extra = np.concatenate([base ^ 1, base + (1 << 28), base + (1 << 28) + 1, base + (1 << 28) - 1])
    special = np.array([1, 0x000FFFFFFFFFFFFF, 0x7FEFFFFFFFFFFFFF, 0x7FF0000000000001, 0x7FF8000000000000,
                        0x36A0000000000000, 0x3690000000000000, 0x3690000000000001, 0x47EFFFFFF0000000,
                        0x47EFFFFFEFFFFFFF, 0x40EFFDFFFFFFFFFF, 0x40EFFE0000000000], dtype=np.uint64)
    return np.unique(np.concatenate([wide, extra, special, special | np.uint64(1 << 63)]))


def casts(book):
    f32 = f32_patterns()
    x = torch.from_numpy(f32.view(np.float32).copy())
    book.put("f32", x)
    narrow = {"f16": torch.float16, "bf16": torch.bfloat16, "f8_e4m3": torch.float8_e4m3fn,
              "f8_e5m2": torch.float8_e5m2}
    cases = []

    def case(src, dst, source_tensor, out, as_ints):
        name = f"{src}_to_{dst}"
        book.put(name, out.view(as_ints) if as_ints else out)
        cases.append(dict(file="cast", case=name, encoding="cast", input=source_tensor, output=name,
                          src=src, dst=dst, n=out.numel()))

    for dst, t in narrow.items():
        case("f32", dst, "f32", x.to(t), torch.uint8 if t.itemsize == 1 else torch.uint16)
    every16 = np.concatenate([np.arange(0, 0x0420), np.arange(0x0420, 0x7C00, 37), np.arange(0x7BF0, 0x7C10),
                              np.arange(0x7C10, 0x8000, 61), [0x7E00, 0x7FFF, 0x7F80, 0x7FC0, 0x7F7F]])
    every16 = np.unique(np.concatenate([every16, every16 | 0x8000])).astype(np.uint16)
    book.put("u16", torch.from_numpy(every16.copy()))
    for src in ("f16", "bf16"):
        t = torch.from_numpy(every16.copy()).view(FLOATS[src])
        case(src, "f32", "u16", t.float(), torch.uint32)
        for dst, narrow_type in narrow.items():
            if dst != src:
                case(src, dst, "u16", t.to(narrow_type), torch.uint8 if narrow_type.itemsize == 1 else torch.uint16)
    every8 = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    book.put("u8", every8)
    for src in ("f8_e4m3", "f8_e5m2"):
        t = every8.view(narrow[src])
        case(src, "f32", "u8", t.float(), torch.uint32)
        case(src, "f16", "u8", t.to(torch.float16), torch.uint16)
        case(src, "bf16", "u8", t.to(torch.bfloat16), torch.uint16)
    f64 = f64_patterns(f32)
    d = torch.from_numpy(f64.view(np.float64).copy())
    book.put("f64", d)
    case("f64", "f32", "f64", d.float(), torch.uint32)
    for dst, t in narrow.items():
        case("f64", dst, "f64", d.to(t), torch.uint8 if t.itemsize == 1 else torch.uint16)
    book.put("f32", x.view(torch.uint32))
    book.put("f64", d.view(torch.uint64))
    book.cases += cases
    book.save("cast", len(cases))


# ---- what transformers writes ---------------------------------------------

def describe(folder):
    """Names, dtypes and shapes in file order, and the text of each kind of quant_state."""
    rows, states = [], {}
    path = os.path.join(folder, "model.safetensors")
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(n))
    meta = header.pop("__metadata__", None)
    for name, v in sorted(header.items(), key=lambda kv: kv[1]["data_offsets"]):
        rows.append([name, v["dtype"], v["shape"]])
    with safe_open(path, "pt") as f:
        for name, _, _ in rows:
            if ".quant_state." in name:
                states[name] = bytes(f.get_tensor(name).tolist()).decode()
    return {"metadata": meta, "tensors": rows, "quant_state": states}


def transformers_files(model_dir):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    dtype = torch.float32      # of the source weights
    kinds = {
        "nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype),
        "nf4-double-quant": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype,
                                 bnb_4bit_use_double_quant=True),
        "fp4": dict(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=dtype),
        "int8": dict(load_in_8bit=True),
    }
    out = {}
    for kind, options in kinds.items():
        model = AutoModelForCausalLM.from_pretrained(
            model_dir, quantization_config=BitsAndBytesConfig(**options), device_map="cpu")
        with tempfile.TemporaryDirectory() as tmp:
            model.save_pretrained(tmp)
            out[kind] = describe(tmp)
            with open(os.path.join(tmp, "config.json"), encoding="utf-8") as f:
                config = json.load(f)
            out[kind]["config_quantization_config"] = config["quantization_config"]
            out[kind]["config_dtype"] = config.get("dtype", config.get("torch_dtype"))
    return out


def to_text(value, depth=0):
    """JSON with one line an item in the outer levels and no line breaks inside."""
    if depth == 3 or not isinstance(value, (dict, list)) or not value:
        return json.dumps(value)
    pad = "\n" + " " * (depth + 1)
    if isinstance(value, dict):
        items = [json.dumps(k) + ": " + to_text(v, depth + 1) for k, v in value.items()]
        return "{" + pad + ("," + pad).join(items) + "}"
    return "[" + pad + ("," + pad).join(to_text(v, depth + 1) for v in value) + "]"


def blockwise_state():
    """How a QuantState of quantize_blockwise looks as a dict, packed and not."""
    _, st = F.quantize_blockwise(bell(600, 5), blocksize=256)
    show = lambda v: [str(v.dtype), list(v.shape)] if isinstance(v, torch.Tensor) else repr(v)
    result = {}
    for packed in (False, True):
        try:
            result[f"packed={packed}"] = {k: show(v) for k, v in st.as_dict(packed=packed).items()}
        except Exception as e:
            result[f"packed={packed}"] = f"{type(e).__name__}: {e}"
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", default=os.path.join(HERE, "../../testdata/golden"))
    p.add_argument("--model", default=os.path.join(HERE, "../../testdata/tiny-llama"))
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(1)
    book = Book(a.out)
    four_bit(book, "nf4")
    four_bit(book, "fp4")
    eight_bit_block(book)
    eight_bit_rows(book)
    casts(book)
    with open(os.path.join(a.out, "manifest.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in book.cases) + "\n]\n")
    if os.path.exists(os.path.join(a.model, "model.safetensors")):
        record = transformers_files(a.model)
        record["int8_block QuantState.as_dict"] = blockwise_state()
        with open(os.path.join(a.out, "quant_state.json"), "w", encoding="utf-8") as f:
            f.write(to_text(record) + "\n")


if __name__ == "__main__":
    main()
