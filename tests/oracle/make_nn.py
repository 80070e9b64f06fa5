#!/usr/bin/env python3
"""testdata/nn: logits of tiny random models, as transformers computes them.

The weights are not kept: they are numbers of lib/rng.c, which are made here
and in tests/test_nn_models.c alike.  Kept are the configs, the names and
shapes of the tensors, the token ids (cases.json) and some rows of the logits
(logits.safetensors).

  value i of tensor T = scale * (u(T, i) - 0.5) + shift, in float32, where u
  is Philox4x32-10 with key 1 and stream XXH3-64(T), its upper 24 bits

  norm weights: scale 1, shift 1; other vectors: scale 1; embeddings and
  heads: scale 2; other matrices: scale 5 / sqrt(inputs)

The weights are large, so that small mistakes show (runtime.md 1.3).

heldout.jsonl: token ids of texts that testdata/tiny-llama has not seen, and in
heldout.json what transformers says of them: the mean -log p whole, and of the
last text in windows of 64 tokens, 24 apart.
"""
import argparse
import json
import os

import numpy as np
import torch
import xxhash
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CONFIG_MAPPING

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "..", "testdata", "nn")
SEED = 1


def philox(name, n):
    """The first n numbers of the stream, in [0, 1), as float32."""
    stream = xxhash.xxh3_64_intdigest(name.encode())
    blocks = (n + 3) // 4
    c = np.zeros((4, blocks), np.uint64)
    c[0] = np.arange(blocks)
    c[2] = stream & 0xFFFFFFFF
    c[3] = stream >> 32
    k0, k1, low = SEED, 0, np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = np.stack([(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), b & low,
                      (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), a & low])
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    u = (c.T.reshape(-1)[:n] >> np.uint64(8)).astype(np.float32)
    return u * np.float32(2.0 ** -24)


def weights(name, shape, conv1d):
    scale, shift = 1.0, 0.0
    if len(shape) == 1:
        shift = float(name.endswith(".weight"))
    elif any(w in name for w in ("embed", "wte", "wpe", "lm_head")):
        scale = 2.0
    else:
        scale = 5 / shape[0 if conv1d else 1] ** 0.5
    u = philox(name, int(np.prod(shape)))
    w = (u - np.float32(0.5)) * np.float32(scale) + np.float32(shift)
    return torch.from_numpy(w.reshape(shape))


BASE = dict(vocab_size=32, hidden_size=32, intermediate_size=48,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, tie_word_embeddings=False)
GPT2 = dict(vocab_size=32, n_embd=32, n_layer=2, n_head=4, n_positions=64,
            bos_token_id=1, eos_token_id=2, embd_pdrop=0.0, attn_pdrop=0.0,
            resid_pdrop=0.0)
LONG = dict(rope_type="longrope", rope_theta=10000.0,
            short_factor=[1.0, 1.5, 2.0, 2.5],
            long_factor=[1.0, 3.0, 9.0, 20.0])


def rope(kind, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=10000.0,
                                     **more))


# name: (model_type, config, tokens)
CASES = {
    "llama": ("llama", {}, 24),
    "llama-long": ("llama", dict(max_position_embeddings=512), 300),
    "llama-tied": ("llama", dict(tie_word_embeddings=True), 12),
    "llama-biases": ("llama", dict(attention_bias=True, mlp_bias=True), 12),
    "llama-head-dim": ("llama", dict(head_dim=12, num_key_value_heads=4), 12),
    "llama-theta": ("llama", rope("default") | dict(
        rope_parameters=dict(rope_type="default", rope_theta=500000.0)), 24),
    "rope-linear": ("llama", rope("linear", factor=4.0), 24),
    "rope-dynamic": ("llama", rope("dynamic", factor=2.0)
                     | dict(max_position_embeddings=16), 24),
    "rope-llama3": ("llama", rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64), 24),
    "rope-yarn": ("llama", rope(
        "yarn", factor=4.0, original_max_position_embeddings=16), 24),
    "rope-yarn-mscale": ("llama", rope(
        "yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.7,
        mscale_all_dim=1.5, truncate=False, beta_fast=4.0, beta_slow=0.5), 24),
    "mistral": ("mistral", dict(sliding_window=5), 24),
    "mistral-full": ("mistral", dict(sliding_window=None), 12),
    "qwen2": ("qwen2", {}, 12),
    "qwen2-window": ("qwen2", dict(use_sliding_window=True, sliding_window=5,
                                   max_window_layers=1), 24),
    "qwen3": ("qwen3", dict(head_dim=16), 24),
    "gemma2": ("gemma2", dict(
        head_dim=8, sliding_window=5, query_pre_attn_scalar=16,
        attn_logit_softcapping=5.0, final_logit_softcapping=8.0,
        tie_word_embeddings=True), 24),
    "phi3": ("phi3", {}, 12),
    "phi3-partial": ("phi3", dict(
        rope_parameters=dict(rope_type="default", rope_theta=10000.0,
                             partial_rotary_factor=0.5)), 12),
    "phi3-short": ("phi3", dict(
        original_max_position_embeddings=32, rope_parameters=LONG), 24),
    "phi3-longrope": ("phi3", dict(
        original_max_position_embeddings=16, rope_parameters=LONG), 24),
    "gpt2": ("gpt2", {}, 24),
    "gpt2-scales": ("gpt2", dict(scale_attn_by_inverse_layer_idx=True,
                                 n_inner=40), 12),
    "gpt2-unscaled": ("gpt2", dict(scale_attn_weights=False), 12),
}
# keys that files of older versions do not have: the same model without them
OLD = {"qwen2-window": ["layer_types"], "gemma2": ["layer_types"]}
NOISE = """_name_or_path id2label label2id chunk_size_feed_forward return_dict
is_encoder_decoder output_attentions output_hidden_states summary_activation
summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
transformers_version initializer_range use_cache problem_type""".split()


def old_rope(config):
    """rope_theta and rope_scaling, as transformers 4 wrote them."""
    p = dict(config.pop("rope_parameters"))
    config["rope_theta"] = p.pop("rope_theta")
    config["rope_scaling"] = p


def make(name, kind, extra, n):
    config = CONFIG_MAPPING[kind](**((GPT2 if kind == "gpt2" else BASE)
                                     | extra))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    tensors = []
    with torch.no_grad():
        for key, p in model.named_parameters():
            conv1d = kind == "gpt2" and p.dim() == 2 and "c_" in key
            p.copy_(weights(key, tuple(p.shape), conv1d))
            tensors.append([key, list(p.shape)])
    ids = (philox("ids of " + name, n) * 32).astype(np.int64)
    with torch.no_grad():
        z = model(torch.from_numpy(ids)[None], use_cache=False).logits[0]
    kept = list(range(n)) if n < 64 else [0, 1, 63, 64, 128, 255, 256, n - 1]
    c = json.loads(config.to_json_string(use_diff=False))
    c = {k: v for k, v in c.items() if k not in NOISE and
         (v is not None or k == "sliding_window" or "softcap" in k)}
    for key in OLD.get(name, []):
        c.pop(key)
    if name == "rope-llama3":
        old_rope(c)
    case = dict(name=name, config=c, ids=ids.tolist(), rows=kept,
                tensors=tensors)
    return case, z[kept].numpy().copy()


def likelihoods(model, ids):
    """-log p of all tokens but the first."""
    with torch.no_grad():
        z = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return -torch.log_softmax(z.double(), -1)[range(len(ids) - 1), ids[1:]]


def heldout(out):
    tiny = os.path.join(HERE, "..", "..", "testdata", "tiny-llama")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(
        tiny, dtype=torch.float32, attn_implementation="eager").eval()
    with open(os.path.join(tiny, "heldout.txt")) as f:
        lines = f.read().splitlines()[:12]
    texts = [tokenizer(t)["input_ids"] for t in lines]
    texts.append(sum(texts[:4], [])[:200])
    nll = torch.cat([likelihoods(model, t) for t in texts])
    long, done, parts = texts[-1], 0, []
    end = 64
    while done < len(long):
        start = max(0, end - 64)
        part = likelihoods(model, long[start:end])
        parts.append(part[max(done - start, 1) - 1:])
        done, end = end, min(end + 24, len(long))
    windows = torch.cat(parts)
    with open(os.path.join(out, "heldout.jsonl"), "w") as f:
        f.writelines('{"ids":%s}\n' % json.dumps(t, separators=(",", ":"))
                     for t in texts)
    with open(os.path.join(out, "heldout.json"), "w") as f:
        json.dump(dict(nll=nll.mean().item(), tokens=len(nll),
                       windows_nll=windows.mean().item(),
                       windows_tokens=len(windows)), f, indent=1)
        f.write("\n")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", default=OUT)
    out = p.parse_args().out
    os.makedirs(out, exist_ok=True)
    cases, logits = [], {}
    for name, (kind, extra, n) in CASES.items():
        case, z = make(name, kind, extra, n)
        print(f"{name:18} max |logit| {abs(z).max():.2f}")
        cases.append(case)
        logits[name] = z
    with open(os.path.join(out, "cases.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    save_file(logits, os.path.join(out, "logits.safetensors"))
    heldout(out)


if __name__ == "__main__":
    main()
