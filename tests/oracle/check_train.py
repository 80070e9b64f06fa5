"""What pq-train wrote, loaded in PEFT and transformers.

    check_train.py BIN

Trains tiny-llama and a tiny gpt2 by every method.  The loss that pq-train
reports for all texts before its last step must be the one that the reference
libraries find with what was written after the step before it.

Then models of every family from nothing: transformers must find each weight
that it looks for and no other, the loss must be the same, and the numbers of
each tensor must be distributed as those of a model that it begins itself.
Last, the text of testdata/workflow/grammar.c must be that of grammar.py.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

import grammar
from report import TOP, start

ROOT = pathlib.Path(TOP)
LLAMA = ROOT / "testdata/tiny-llama"
GPT2 = ROOT / "testdata/peft/base-gpt2"
METHODS = [
    "lora", "lora --rslora -r 4", "lora --dora -r 2", "lora --init pissa -r 2",
    "lora --init pissa --rslora -r 2", "lora --lora-plus 4", "lora --pack",
    "prompt --prompt-tokens 3", "prompt --prompt-tokens 2 --prompt-init random",
    "full", "full --recompute",
]


def pq_train(tools, model, data, n, method, steps, out):
    """The losses of the steps."""
    text = tools.run("pq-train", "--json", "-q", "-d", data, "--batch", n, "--no-shuffle",
                     "--schedule", "constant", "--lr", "1e-2", "--steps", steps,
                     "--method", *method.split(), "-o", f"{out}/", model)
    return [json.loads(line)["loss"] for line in text.splitlines()]


def reference_loss(model, texts):
    """Mean of -log p over the tokens of all texts that follow something."""
    total = count = 0
    for ids in texts:
        with torch.no_grad():
            z = model(input_ids=torch.tensor([ids])).logits[0].double()
        before = z.shape[0] - len(ids)  # rows of a soft prompt
        labels = torch.tensor(ids if before else ids[1:])
        z = z[max(before - 1, 0):-1]
        total += torch.nn.functional.cross_entropy(z, labels, reduction="sum")
        count += len(labels)
    return float(total / count)


def load(base, out, method):
    if method.startswith("full"):
        return AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, out)


def check(report, what, tools, base, data, texts, method, folder):
    out = folder / what.replace(" ", "-")
    wanted = pq_train(tools, base, data, len(texts), method, 4, out)[-1]
    pq_train(tools, base, data, len(texts), method, 3, out)
    found = reference_loss(load(base, out, method).eval(), texts)
    report.line(abs(found - wanted) <= 2e-5 * max(1, abs(wanted)), what, f"{wanted} and {found}")


def same_distribution(mine, its):
    """Constants and rows of zeros are equal; else mean and deviation nearly."""
    if its.unique().numel() == 1:
        return torch.equal(mine, its)
    zero = (its == 0).all(1)
    if not torch.equal((mine == 0).all(1), zero):
        return False
    mine, its = mine[~zero].double(), its[~zero].double()
    far = 6 * its.std() * (2 / its.numel()) ** 0.5
    return abs(mine.mean() - its.mean()) < far and abs(mine.std() - its.std()) < far


def check_fresh(report, what, tools, case, data, texts, folder):
    # the rate of the first step of a warm-up is 0
    empty, out = folder / f"{what}-empty", folder / what.replace(" ", "-")
    empty.mkdir()
    (empty / "config.json").write_text(json.dumps(case["config"]))
    text = tools.run("pq-train", "--json", "-q", "-d", data, "--batch", len(texts), "--steps", 1,
                     "--warmup", 1, "--method", "full", "--init", "random", "-o", f"{out}/", empty)
    wanted = json.loads(text)["loss"]
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    wrong = [f"{k}: {sorted(v)}" for k, v in info.items() if v]
    found = reference_loss(model.eval(), texts)
    if abs(found - wanted) > 2e-5 * abs(wanted):
        wrong.append(f"loss {wanted} and {found}")
    torch.manual_seed(1)
    own = dict(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(empty)).named_parameters())
    wrong += [name for name, p in model.named_parameters() if not same_distribution(p, own[name])]
    report.line(not wrong and len(own) == len(list(model.parameters())), what, "; ".join(wrong))


def check_grammar(report, what, seed, program):
    text = subprocess.run([program, str(seed), "20000"], check=True, capture_output=True, text=True).stdout
    report.line(text == "".join(x + "\n" for x in grammar.passages(seed, 20000)), what)


def main():
    tools, report = start(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        few = folder / "few.jsonl"
        few.write_text('{"ids":[1,5,3,7,2]}\n{"ids":[2,4,6]}\n')
        for base, data in [(LLAMA, ROOT / "testdata/nn/heldout.jsonl"), (GPT2, few)]:
            texts = [json.loads(line)["ids"] for line in data.read_text().splitlines()]
            for method in METHODS:
                report.guard(f"{base.name} {method}", check, tools, base, data, texts, method, folder)
        for case in json.loads((ROOT / "testdata/nn/cases.json").read_text()):
            report.guard(f"from nothing {case['name']}", check_fresh, tools, case, few, [[1, 5, 3, 7, 2], [2, 4, 6]],
                         folder)
        program = folder / "grammar"
        subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-o", program, ROOT / "testdata/workflow/grammar.c"],
                       check=True)
        for seed in 1, 2, 3, 1 << 40:
            report.guard(f"grammar {seed}", check_grammar, seed, program)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
