"""The published formulas for merging models, in float64 numpy, and the tiny
models that make_blend_goldens.py tries them on.

Every function takes one tensor of the base and the same tensor of each tuned
model; d[i] = models[i] - base.

    linear            sum w W, over sum w if normalized    2203.05482
    task_arithmetic   base + lambda sum w d                2212.04089
    slerp             sin((1-t)A)/sin A W0 + sin(tA)/sin A W1, lerp where
                      |cos A| > 0.9995
    ties              trim to the largest, elect a sign, mean of those that
                      agree                                2306.01708
    dare              drop at random, what stays over the density 2311.03099
    della             dare whose chance to stay grows with the rank of |d| in
                      its row, what stays over its own chance   2406.11617
    breadcrumbs       neither the largest nor the smallest 2312.06795
    model_stock       t mean W + (1-t) base,
                      t = N c/(1 + (N-1) c), c the mean cosine  2403.19522
"""
import numpy as np

F = np.float64


def deltas(base, models):
    return [m.astype(F) - base.astype(F) for m in models]


# ---- which elements of a delta stay ----------------------------------------

def keep_all(d, **_):
    return np.ones(d.shape)


def keep_largest(d, density, **_):
    """max(1, int(density n)) of the largest; the script takes care that no
    two are equal."""
    if density >= 1:
        return np.ones(d.shape)
    k = max(1, int(density * d.size))
    keep = np.zeros(d.size)
    keep[np.argsort(-np.abs(d).ravel(), kind="stable")[:k]] = 1
    return keep.reshape(d.shape)


def keep_middle(d, density, gamma=0.01, **_):
    """int(density n) below the int(gamma n) largest; where there are too few
    below them, fewer of the largest are left out."""
    if density >= 1:
        return np.ones(d.shape)
    k, top = int(density * d.size), int(gamma * d.size)
    first = max(0, d.size - k - top)
    keep = np.zeros(d.size)
    keep[np.argsort(np.abs(d).ravel(), kind="stable")[first:first + k]] = 1
    return keep.reshape(d.shape)


def della_chance(d, density, epsilon):
    """density - epsilon for the smallest |d| of a row to density + epsilon
    for the largest, even steps between; a vector is one row."""
    rows = np.abs(d).reshape(1 if d.ndim < 2 else d.shape[0], -1)
    rank = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1)
    chance = density - epsilon + rank / (rows.shape[1] - 1) * 2 * epsilon
    return chance.reshape(d.shape)


# ---- the methods -------------------------------------------------------------

def linear(models, weight, normalize=True):
    total = sum(w * m.astype(F) for w, m in zip(weight, models))
    return total / sum(weight) if normalize else total


def combine(base, sparse, weight, lam=1.0, normalize=False, elect=False):
    """base + lambda x the weighted sum of what is left of the deltas; with
    `elect` only of those that have the sign of that sum, where a sum of zero
    counts as positive."""
    parts = [w * d for w, d in zip(weight, sparse)]
    agree = [np.ones(base.shape)] * len(parts)
    if elect:
        sign = np.where(sum(parts) >= 0, 1, -1)
        agree = [np.sign(p) == sign for p in parts]
    mixed = sum(p * m for p, m in zip(parts, agree))
    if normalize:
        divisor = sum(w * m for w, m in zip(weight, agree))
        mixed = mixed / np.where(np.abs(divisor) < 1e-8, 1, divisor)
    return base.astype(F) + lam * mixed


def cosine(a, b):
    a, b = a.astype(F).ravel(), b.astype(F).ravel()
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def slerp(base, other, t):
    c = np.clip(cosine(base, other), -1, 1)
    if abs(c) > 0.9995:
        return (1 - t) * base.astype(F) + t * other.astype(F)
    angle = np.arccos(c)
    return (np.sin((1 - t) * angle) * base.astype(F)
            + np.sin(t * angle) * other.astype(F)) / np.sin(angle)


def model_stock(base, models, by_row=False):
    shape = base.shape
    rows = base.shape[0] if by_row and base.ndim > 1 else 1
    base = base.reshape(rows, -1)
    models = [m.reshape(rows, -1) for m in models]
    d, n = deltas(base, models), len(models)
    out = np.empty(base.shape)
    for r in range(rows):
        c = np.mean([cosine(d[i][r], d[j][r])
                     for i in range(n) for j in range(i)])
        t = n * c / (1 + (n - 1) * c)
        out[r] = (t * np.mean([m[r].astype(F) for m in models], axis=0)
                  + (1 - t) * base[r].astype(F))
    return out.reshape(shape)


# ---- the models --------------------------------------------------------------

LAYERS, HIDDEN, MIDDLE, HEADS, HEAD = 3, 9, 13, 3, 2
VOCABULARY = ("<unk> <s> </s> the a dog cat house river small red runs sleeps "
              "sings under over near").split()
# another vocabulary: other places, "house" is missing, four are new
WIDE = ("<unk> <s> </s> near a the cat dog moon river red small sleeps runs "
        "under sings over blue tree star").split()


def shapes(vocabulary):
    out = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        out |= {p + "self_attn.q_proj.weight": (HEADS * HEAD, HIDDEN),
                p + "self_attn.k_proj.weight": (HEAD, HIDDEN),
                p + "self_attn.v_proj.weight": (HEAD, HIDDEN),
                p + "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD),
                p + "mlp.gate_proj.weight": (MIDDLE, HIDDEN),
                p + "mlp.up_proj.weight": (MIDDLE, HIDDEN),
                p + "mlp.down_proj.weight": (HIDDEN, MIDDLE),
                p + "input_layernorm.weight": (HIDDEN,),
                p + "post_attention_layernorm.weight": (HIDDEN,)}
    return out | {"model.norm.weight": (HIDDEN,),
                  "lm_head.weight": (vocabulary, HIDDEN)}


def on_grid(x):
    """Multiples of 2^-20: what f32 subtracts without rounding."""
    return np.round(x * 2**20) / 2**20


def base_tensors(vocabulary, seed):
    rng = np.random.default_rng(seed)
    return {k: on_grid(rng.normal(len(s) == 1, 0.05 if len(s) > 1 else 0.2, s))
            for k, s in shapes(vocabulary).items()}


def tuned(base, seed, scale):
    """base + d, no two |d| of a tensor equal and none zero."""
    rng = np.random.default_rng(seed)
    out = {}
    for k, v in base.items():
        while True:
            d = on_grid(rng.normal(0, scale, v.shape))
            if len(np.unique(np.abs(d))) == d.size and np.all(d != 0):
                break
        out[k] = v + d
    return out


def bf16(x):
    """Rounded to the nearest of bf16, ties to even."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)
