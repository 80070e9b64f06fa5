#!/usr/bin/env python3
"""Makes testdata/peft: tiny bases, adapters as PEFT saves them, and what
merge_and_unload makes of them.  Run from the top of the tree, with
PYTHONHASHSEED=0 so that lists come out in one order.

Adapters of experts are made once more by peft 0.18, which had their two sides
the other way round: --old, with PYTHONPATH at its package."""
import json
import os
import shutil
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (GPT2Config, GPT2LMHeadModel, GptOssConfig,
                          GptOssForCausalLM, LlamaConfig, LlamaForCausalLM,
                          MixtralConfig, MixtralForCausalLM)

OLD = "--old" in sys.argv
PATHS = [a for a in sys.argv[1:] if a != "--old"]
ROOT = PATHS[0] if PATHS else "testdata/peft"
LINEAR = ["q_proj", "v_proj", "down_proj"]
CONV1D = ["c_attn", "c_proj", "c_fc"]


def llama(tied=False):
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        attention_bias=True, max_position_embeddings=16,
        tie_word_embeddings=tied))


def gpt2():
    torch.manual_seed(2)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=24, n_embd=16, n_layer=2, n_head=2, n_positions=8))


SMALL = dict(vocab_size=16, hidden_size=8, num_hidden_layers=1,
             num_attention_heads=2, num_key_value_heads=1, num_local_experts=3,
             num_experts_per_tok=2, max_position_embeddings=16)


def mixtral(intermediate=12):
    torch.manual_seed(3)
    return MixtralForCausalLM(MixtralConfig(
        intermediate_size=intermediate, **SMALL))


def gpt_oss():
    """Its experts lie [in, out], and down_proj is square."""
    torch.manual_seed(4)
    return GptOssForCausalLM(GptOssConfig(
        intermediate_size=8, head_dim=4, layer_types=["full_attention"],
        **SMALL))


BASES = {"llama": llama, "llama-tied": lambda: llama(True), "gpt2": gpt2,
         "mixtral": mixtral, "mixtral-square": lambda: mixtral(8),
         "gpt-oss": gpt_oss}
EXPERTS = dict(target_modules=["q_proj"], target_parameters=[
    "mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
DOWN = dict(target_modules=[], target_parameters=["experts.down_proj"])

LORA = {
    "lora": ("llama", dict(target_modules=LINEAR)),
    "rslora": ("llama", dict(target_modules=LINEAR, use_rslora=True)),
    "pattern": ("llama", dict(
        target_modules=LINEAR,
        rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 5},
        alpha_pattern={r"layers\.\d+\.self_attn\.v_proj": 3})),
    "dora": ("llama", dict(target_modules=LINEAR, use_dora=True)),
    "dora-embedding": ("llama", dict(
        target_modules=["embed_tokens", "q_proj"], use_dora=True)),
    "embedding": ("llama", dict(target_modules=["embed_tokens", "lm_head"])),
    "bias-all": ("llama", dict(target_modules=LINEAR, bias="all")),
    "lora-bias": ("llama", dict(target_modules=["q_proj", "v_proj"],
                                lora_bias=True)),
    "save": ("llama", dict(target_modules=LINEAR,
                           modules_to_save=["lm_head", "norm"])),
    "tokens": ("llama", dict(target_modules=LINEAR,
                             trainable_token_indices=[3, 17, 5])),
    "tied-tokens": ("llama-tied", dict(
        target_modules=LINEAR, trainable_token_indices={"embed_tokens": [3]})),
    "tied-head": ("llama-tied", dict(target_modules=["lm_head", "q_proj"])),
    "conv1d": ("gpt2", dict(target_modules=CONV1D, fan_in_fan_out=True)),
    "conv1d-dora": ("gpt2", dict(target_modules=CONV1D, use_dora=True,
                                 fan_in_fan_out=True)),
    # parts of the base go into the adapter before training; more of these and
    # of experts: make_adapter_goldens.py, make_moe_goldens.py
    "pissa-dora": ("llama", dict(
        target_modules=LINEAR, init_lora_weights="pissa", use_dora=True)),
    "olora-conv1d": ("gpt2", dict(
        target_modules=["attn.c_proj"], fan_in_fan_out=True,
        init_lora_weights="olora")),
    "mica": ("llama", dict(target_modules=LINEAR, init_lora_weights="mica")),
    # differ from LoRA in training only
    "velora": ("llama", dict(target_modules=LINEAR, velora_config={})),
    "monteclora": ("llama", dict(target_modules=LINEAR,
                                 monteclora_config={})),
    "experts": ("mixtral", EXPERTS | dict(
        rank_pattern={"down_proj": 3},
        target_parameters=EXPERTS["target_parameters"] + ["gate.weight"])),
    "experts-square": ("mixtral-square", DOWN),
    "experts-in-out-square": ("gpt-oss", DOWN),
}

# what peft 0.18 makes otherwise
OLD_LORA = {
    "experts-square-018": ("mixtral-square", DOWN),
}


def shake(model):
    """Trained numbers: nothing is left at zero."""
    for name, p in model.named_parameters():
        if p.requires_grad:
            scale = 0.1 if "magnitude" in name else 0.3
            p.data += torch.randn_like(p) * scale


def save_state(model, base, path):
    """Only what changed.  A tied head that was trained is a tensor of its
    own in truth; PEFT merges it into the embeddings as well."""
    before = base.state_dict()
    state = {k: v.detach().contiguous().clone()
             for k, v in model.state_dict().items()
             if k not in before or not torch.equal(v, before[k])}
    table = "model.embed_tokens.weight"
    if base.config.tie_word_embeddings and "lm_head.weight" in state:
        del state[table if "head" in path else "lm_head.weight"]
    save_file(state, path)


def make(name, base, config, seed):
    torch.manual_seed(seed)
    model = get_peft_model(BASES[base](), config)
    shake(model)
    model.save_pretrained(f"{ROOT}/{name}", save_embedding_layers=False)
    merged = PeftModel.from_pretrained(BASES[base](), f"{ROOT}/{name}")
    merged = merged.merge_and_unload()
    save_state(merged, BASES[base](), f"{ROOT}/{name}/merged.safetensors")
    if "mixtral" in base:
        save_split(merged, BASES[base](),
                   f"{ROOT}/{name}/merged-split.safetensors")


def split(model):
    with tempfile.TemporaryDirectory() as d:
        model.save_pretrained(d)
        return load_file(f"{d}/model.safetensors")


def save_split(model, base, path):
    """The same with the experts apart, as transformers saves the model."""
    before = split(base)
    save_file({k: v for k, v in split(model).items()
               if not torch.equal(v, before[k])}, path)


def main():
    if OLD:
        for i, (name, (base, args)) in enumerate(OLD_LORA.items()):
            args = dict(r=2, lora_alpha=3, task_type="CAUSAL_LM") | args
            make(name, base, LoraConfig(**args), 80 + i)
            os.remove(f"{ROOT}/{name}/README.md")
        return
    shutil.rmtree(ROOT, ignore_errors=True)
    for name, base in BASES.items():
        base().save_pretrained(f"{ROOT}/base-{name}")
        if name == "mixtral":
            os.makedirs(f"{ROOT}/base-{name}-fused", exist_ok=True)
            save_file(base().state_dict(),
                      f"{ROOT}/base-{name}-fused/model.safetensors")
    for i, (name, (base, args)) in enumerate(LORA.items()):
        args = dict(r=4, lora_alpha=6, task_type="CAUSAL_LM") | args
        make(name, base, LoraConfig(**args), 10 + i)
    make("only-tokens", "llama", TrainableTokensConfig(
        token_indices=[1, 2], target_modules=["embed_tokens"]), 99)

    # for the examples of the manual, on testdata/tiny-llama
    torch.manual_seed(5)
    model = LlamaForCausalLM.from_pretrained(f"{ROOT}/../tiny-llama")
    model = get_peft_model(model, LoraConfig(
        r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    shake(model)
    model.save_pretrained(f"{ROOT}/tiny-lora")

    # fits any model: it brings a head and changes nothing
    os.makedirs(f"{ROOT}/head", exist_ok=True)
    save_file({"base_model.model.score.weight": torch.ones(2, 4)},
              f"{ROOT}/head/adapter_model.safetensors", {"format": "pt"})
    with open(f"{ROOT}/head/adapter_config.json", "w") as f:
        json.dump({"lora_alpha": 8, "peft_type": "LORA", "r": 8,
                   "task_type": "SEQ_CLS"}, f, indent=2, sort_keys=True)

    # two adapters, one after the other
    model = PeftModel.from_pretrained(llama(), f"{ROOT}/lora")
    model = PeftModel.from_pretrained(model.merge_and_unload(),
                                      f"{ROOT}/pattern")
    os.makedirs(f"{ROOT}/two", exist_ok=True)
    save_state(model.merge_and_unload(), llama(),
               f"{ROOT}/two/merged.safetensors")
    for d in os.listdir(ROOT):
        for f in ("README.md", "generation_config.json"):
            if os.path.exists(f"{ROOT}/{d}/{f}"):
                os.remove(f"{ROOT}/{d}/{f}")


if __name__ == "__main__":
    main()
