"""What a user would pick instead of pq to train and to score: torch, transformers, peft.

    rival_nn.py full|lora MODEL IDS STEPS BATCH    AdamW steps; seconds a step
    rival_nn.py eval MODEL IDS                     losses of all texts; seconds

Prints the seconds of the work itself on stdout: imports and loading are not
counted, nor is the first step, which allocates.  Two threads, float32, sdpa.
"""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def load(path):
    torch.set_num_threads(2)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")


def texts(path):
    with open(path, encoding="utf-8") as f:
        return torch.tensor([json.loads(line)["ids"] for line in f])


def with_lora(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))


def train(method, path, ids, steps, batch):
    model = load(path)
    if method == "lora":
        model = with_lora(model)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(trained, lr=1e-4)
    for step in range(steps + 1):
        if step == 1:
            start = time.perf_counter()
        x = ids[torch.arange(step * batch, (step + 1) * batch) % len(ids)]
        loss = model(input_ids=x, labels=x).loss
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        opt.step()
    return (time.perf_counter() - start) / steps


def score(path, ids):
    model = load(path).eval()
    with torch.no_grad():
        model(input_ids=ids[:1], labels=ids[:1])
        start = time.perf_counter()
        for row in ids:
            model(input_ids=row[None], labels=row[None]).loss.item()
        return time.perf_counter() - start


def main():
    method, path, ids = sys.argv[1], sys.argv[2], texts(sys.argv[3])
    if method == "eval":
        print(score(path, ids))
    else:
        print(train(method, path, ids, int(sys.argv[4]), int(sys.argv[5])))


if __name__ == "__main__":
    main()
