"""What pq-train wrote, loaded in PEFT and transformers.

    check_train.py BIN

Trains tiny-llama and a tiny gpt2 by every method.  The loss that pq-train
reports for all texts before its last step must be the one that the reference
libraries find with what was written after the step before it.
"""

import json
import pathlib
import sys
import tempfile

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

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
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
