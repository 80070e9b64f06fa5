#!/usr/bin/env python3
"""Train the embedded model: testdata/tiny-llama, about 312k parameters, in minutes on two cores.

    HF_HUB_OFFLINE=1 python tests/oracle/train_tiny.py [--steps N] [--out DIR]

The text is grammar.py's: seed 1 to train on, seed 2 held out.  Writes the HF layout, heldout.txt and
a README.md with the held-out perplexity.  Everything is seeded; another torch build may differ in last bits.
"""
import argparse
import json
import math
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import grammar

CONTEXT = 256
PAD, BOS, EOS = 0, 1, 2


def make_tokenizer(lines):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)])
    return tok


def token_stream(tok, lines):
    """<s> a few passages, a newline after each </s> ..."""
    d, ids, i = grammar.Dice(7), [], 0
    while i < len(lines):
        n = d.below(6) + 1
        ids += [BOS] + tok.encode("".join(x + "\n" for x in lines[i:i + n]),
                                  add_special_tokens=False).ids + [EOS]
        i += n
    return torch.tensor(ids)


def perplexity(model, ids):
    """Non-overlapping windows of CONTEXT tokens; each window predicts all but its first token."""
    total, count = 0.0, 0
    with torch.no_grad():
        for i in range(0, len(ids) - 1, CONTEXT):
            w = torch.tensor(ids[i:i + CONTEXT])[None]
            if w.shape[1] < 2:
                break
            logits = model(w).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, w[0, 1:], reduction="sum").item()
            count += w.shape[1] - 1
    return math.exp(total / count), count


def train(model, data, steps, batch, seq):
    gen = torch.Generator().manual_seed(3)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.98))
    t0 = time.time()
    for step in range(steps):
        lr = 4e-3 * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for g in opt.param_groups:
            g["lr"] = lr
        at = torch.randint(0, len(data) - seq - 1, (batch,), generator=gen)
        x = torch.stack([data[i:i + seq] for i in at])
        loss = model(input_ids=x, labels=x).loss
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.4f} {time.time() - t0:.0f}s", flush=True)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(value, indent=2) + "\n")


def sample(model, tok, prompt):
    ids = torch.tensor(tok.encode(prompt).ids)[None]
    out = model.generate(ids, max_new_tokens=60, do_sample=False)[0].tolist()
    return tok.decode(out, skip_special_tokens=True).split("\n")[0]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--steps", type=int, default=2400)
    p.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "../../testdata/tiny-llama"))
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(2)
    torch.manual_seed(1)

    lines = list(grammar.passages(1, 60000))
    held = list(grammar.passages(2, 200))
    tok = make_tokenizer(lines)
    tok.save(os.path.join(a.out, "tokenizer.json"))
    write_json(os.path.join(a.out, "tokenizer_config.json"), {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": "<pad>", "model_max_length": CONTEXT, "clean_up_tokenization_spaces": False})
    with open(os.path.join(a.out, "heldout.txt"), "w", encoding="utf-8") as f:
        f.write("".join(x + "\n" for x in held))
    data = token_stream(tok, lines)
    print(f"{len(data)} training tokens, {tok.get_vocab_size()} in the vocabulary", flush=True)

    model = LlamaForCausalLM(LlamaConfig(
        # Rows in 32s and columns in 64s: bitsandbytes' AVX512-BF16 path for 4 bits takes no others.
        vocab_size=512, hidden_size=64, intermediate_size=192, num_hidden_layers=5,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, attn_implementation="sdpa"))
    print(sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    train(model, data, a.steps, batch=16, seq=CONTEXT)
    model.eval()
    model.save_pretrained(a.out)
    os.chmod(os.path.join(a.out, "model.safetensors"), 0o644)

    ids = tok.encode("".join(x + "\n" for x in held)).ids
    ppl, n = perplexity(model, ids)
    text = f"""# tiny-llama

A llama-architecture language model of {sum(p.numel() for p in model.parameters())} parameters (f32), trained by

    HF_HUB_OFFLINE=1 python tests/oracle/train_tiny.py --steps {a.steps}

on text of tests/oracle/grammar.py (seed 1). heldout.txt is `grammar.py --seed 2 --sentences 200`.

Perplexity on heldout.txt: {ppl:.4f} over {n} predicted tokens: the whole file is tokenised once (`<s>` in
front), cut into windows of {CONTEXT} tokens that do not overlap, and every token of a window but its first is
predicted from those before it in the window. An untrained model would have 512.

Greedy text:

"""
    for prompt in ["One day Anna went to", "Two plus three is", "Count with me: 3, 4,"]:
        text += f"    {sample(model, tok, prompt)}\n"
    with open(os.path.join(a.out, "README.md"), "w", encoding="utf-8") as f:
        f.write(text)
    print(text)


if __name__ == "__main__":
    main()
