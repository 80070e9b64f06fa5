#!/usr/bin/env python3
"""Makes testdata/adapters/moe-*: LoRA on the experts of a mixture, which
transformers holds as one 3-D parameter (target_parameters).  Run from the top
of the tree, once with the PEFT of requirements.txt, then with an old one:

    python make_moe_goldens.py
    pip install --no-deps --target OLD peft==0.18.1
    PYTHONPATH=OLD python make_moe_goldens.py

PEFT 0.19 changed which side of such a parameter is in and which is out, so
there are moe-new-* and moe-old-*.  The bases and merged.safetensors are as
transformers saves the models:

    qwen3     experts.E.gate_proj, up_proj and down_proj apart; the parameter
              gate_up_proj is [E][2 m][h], gate over up.  down_proj is square
    mixtral   the same, as block_sparse_moe.experts.E.w1, w3 and w2
    gpt-oss   [E][h][2 m] and [E][m][h] in one piece, in before out

A is [E r][in], row e r + k; B is [out][r E], column k E + e.  The delta of
expert e is s B_e A_e in the new layout; transposed in the old one and where
the model itself stores in before out.  This script checks PEFT against that.
"""
import os
import shutil
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (GptOssConfig, GptOssForCausalLM, MixtralConfig,
                          MixtralForCausalLM, Qwen3MoeConfig,
                          Qwen3MoeForCausalLM)

from make_peft_goldens import shake

ROOT = "testdata/adapters"
OLD = tuple(map(int, peft.__version__.split(".")[:2])) < (0, 19)
COMMON = dict(vocab_size=12, hidden_size=8, num_hidden_layers=1,
              num_attention_heads=2, num_key_value_heads=1, head_dim=4,
              num_experts_per_tok=2, max_position_embeddings=16,
              bos_token_id=1, eos_token_id=2, pad_token_id=0)
BASES = {
    "qwen3": (Qwen3MoeForCausalLM, Qwen3MoeConfig(
        **COMMON, intermediate_size=8, moe_intermediate_size=8,
        num_experts=3)),
    "mixtral": (MixtralForCausalLM, MixtralConfig(
        **COMMON, intermediate_size=6, num_local_experts=3)),
    "gpt-oss": (GptOssForCausalLM, GptOssConfig(
        **COMMON, intermediate_size=6, num_local_experts=3)),
}


def base(name):
    torch.manual_seed(70)
    kind, config = BASES[name]
    model = kind(config)
    for p in model.parameters():        # gpt-oss starts many at zero
        p.data = torch.randn_like(p) * 0.1
    return model


def saved(model, folder=None):
    """The tensors as transformers names them on disk."""
    with tempfile.TemporaryDirectory() as tmp:
        model.save_pretrained(tmp)
        if folder:
            os.makedirs(folder)
            for f in ("config.json", "model.safetensors"):
                shutil.copy(f"{tmp}/{f}", folder)
        return load_file(f"{tmp}/model.safetensors")


def check(name, folder, before, after):
    """merged = base + what the drawing above says; float64."""
    adapter = {k.removeprefix("base_model.model.model.layers.0."): v.double()
               for k, v in load_file(f"{folder}/adapter_model.safetensors").items()}
    for param, wrapper in (("gate_up_proj", "mlp.experts.base_layer."),
                           ("down_proj", "mlp.experts.")):
        a = adapter[wrapper + "lora_A.weight"].view(3, 2, -1)
        b = adapter[wrapper + "lora_B.weight"]
        b = b.view(b.shape[0], 2, 3)
        delta = 1.5 * torch.einsum("oke,eki->eoi", b, a)
        if OLD or name == "gpt-oss":
            delta = delta.mT
        for d, w, m in zip(delta, before[param], after[param]):
            assert torch.allclose(w + d, m, rtol=0, atol=1e-6)


def experts(model):
    e = model.model.layers[0].mlp.experts
    return {k: getattr(e, k).detach().double() for k in ("gate_up_proj",
                                                         "down_proj")}


def make(name, age):
    folder = f"{ROOT}/moe-{age}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    model = base(name)
    torch.manual_seed(80 + OLD)
    model = get_peft_model(model, LoraConfig(
        r=2, lora_alpha=3, target_modules=["q_proj"], task_type="CAUSAL_LM",
        target_parameters=["mlp.experts.gate_up_proj",
                           "mlp.experts.down_proj"]))
    shake(model)
    model.save_pretrained(folder, save_embedding_layers=False)
    os.remove(f"{folder}/README.md")
    before = saved(base(name))
    merged = PeftModel.from_pretrained(base(name), folder).merge_and_unload()
    check(name, folder, experts(base(name)), experts(merged))
    after = saved(merged)
    assert after.keys() == before.keys()
    save_file({k: v for k, v in after.items()
               if not torch.equal(v, before[k])},
              f"{folder}/merged.safetensors", {"format": "pt"})


def main():
    torch.set_num_threads(1)
    for name in BASES:
        if not OLD:
            folder = f"{ROOT}/moe-base-{name}"
            shutil.rmtree(folder, ignore_errors=True)
            saved(base(name), folder)
        make(name, "old" if OLD else "new")


if __name__ == "__main__":
    sys.exit(main())
