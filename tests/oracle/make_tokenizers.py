#!/usr/bin/env python3
"""Makes testdata/tokenizers: small tokenizers of every kind, the ids that the
reference libraries give for a list of texts, and what those decode to.

    make_tokenizers.py [--out DIR]

Kinds are trained with `tokenizers` and `sentencepiece` on text that is
generated here; no network.  The trainers of `tokenizers` break some ties at
random, so another run may give other vocabularies.  goldens.json is

    {"texts": [..], "tokenizers": [{"file": "gpt2.json", "before": n,
     "after": n, "ids": [[..], ..], "decoded": [..], "skipped": [..]}, ..]}

with one entry a text in each list: its ids, of which so many at the start and
the end are what the post-processor added, and what they decode to with and
without special tokens, null for the text itself.
"""
import argparse
import base64
import io
import json
import os
import struct
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as spm_pb2
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models,
                        normalizers, pre_tokenizers, processors, trainers)

sys.path.insert(0, os.path.dirname(__file__))
import grammar  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

GPT2 = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
        r"|\s+(?!\S)|\s+")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"]

TEXTS = [
    "", " ", "  ", "\n", "\t\t x", "\r\n\r\n", "a", "Once upon a time, there",
    " the cat's and WE'LL, don't I'M", "Hello   world  \n\n  indented\n",
    "def f(x):\n    return x[0] ** 2  # 12345.678e-9\n\tif a&&b: pass",
    "for (int i = 0; i < n; ++i) { a[i] |= 0xFF; }\r\n",
    "naïve café, Ångström, ñandú, Straße, İstanbul, ΑΣΣ Ðð ſ K",
    "e\u0301 A\u030a o\u0323\u0302 \u1e69 s\u0307\u0323 \u212b \ufb01 \u00bd",
    "Привет, мир! Ελληνικά. שלום עולם مرحبا بالعالم",
    "日本語のテキスト、中文字符。한국어 텍스트 각",
    "हिन्दी में ไทย ภาษา தமிழ்", "🦙 👩‍👩‍👧‍👦 🇫🇷🇩🇪 👍🏽 ☃️ 🫠", "\u00a0\u2003\u3000x\u200b\u180e\u2028y",
    "\u0000\u0001\u007f\u0085\ufeff\ufffd", "<s>Hi</s> there<unk>", "</s>",
    "x <mask> y<mask>  <MASK> a<word>b <word> c", "▁▁the ▁x a▁b _ __init__",
    "1234567890 ١٢٣ Ⅷ ½ ²³ 12,345.67", "...!!! ?? -- — “quotes” ‘x’ «y»",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\U0010ffff \ue000 \u0378 𝔘𝔫𝔦 𠀀𪛖", "ＦＵＬＬ　ｗｉｄｔｈ ｶﾞ ㍿ ①",
    "https://example.org/a?b=c&d=%20#e user@host.tld",
    "The Cat sat on the mat. THE END", "ab  cd   ef    gh     ij",
    " x", "x ", "<0x41><0x0A>", "Ġthe Ċ", "thethethe",
]


def corpus():
    """Some 60 KB of English-like text, and a little of everything."""
    lines = list(grammar.passages(7, 900))
    extra = [t.replace("\u0000", "") for t in TEXTS if len(t) > 12]
    extra += ["int main(void) { return 0; }", "x = [1, 2, 3]; y = x[0] + 42",
              "été où ça für Öl über", "и в не на что", "的是不了在人有我"]
    return [x for x in lines[:300] + extra * 6 if "\n" not in x]


def byte_bpe(size):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def spm_like_bpe(size):
    """A vocabulary as Llama's: <unk> <s> </s>, bytes, then pieces."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"),
                                         normalizers.Replace(" ", "▁")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=special,
        limit_alphabet=60))
    j = json.loads(t.to_str())["model"]
    merges = [tuple(m) for m in j["merges"]]
    return j["vocab"], merges


def bpe_copy(base, **options):
    m = json.loads(base.to_str())["model"]
    return Tokenizer(models.BPE(vocab=m["vocab"],
                                merges=[tuple(x) for x in m["merges"]],
                                **options))


def unigram(size, normalizer, pre):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.train_from_iterator(corpus(), trainers.UnigramTrainer(
        vocab_size=size, show_progress=False, unk_token="<unk>",
        special_tokens=["<pad>", "</s>", "<unk>"]))
    return t


def template(t, before=(), after=()):
    name = {"<s>": t.token_to_id("<s>"), "</s>": t.token_to_id("</s>")}
    return processors.TemplateProcessing(
        single=" ".join([*before, "$A", *after]), pair=None,
        special_tokens=[(x, name[x]) for x in {*before, *after}])


def charsmap():
    """A small table of replacements, compiled by sentencepiece."""
    rules = {"\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ",
             "\u2003": " ", "\u00bd": "1⁄2", "ﬁ": "fi", "e\u0301": "é",
             "\u0001": "", "\u007f": "", "\u212b": "\u00c5", "①": "1", "ｶﾞ": "ガ",
             "ｶ": "カ", "㍿": "株式会社", "👍🏽": "+1", "👍": "up", "Ａ": "A",
             "\u200b": " ", "\ufeff": " ", "ñ": "n"}
    path = "/tmp/pq-rules.tsv"
    with open(path, "w", encoding="utf-8") as f:
        for a, b in rules.items():
            f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" +
                    " ".join(f"{ord(c):X}" for c in b) + "\n")
    proto = spm_pb2.ModelProto.FromString(
        train_spm(model_type="unigram", vocab_size=120,
                  normalization_rule_tsv=path))
    os.unlink(path)
    return proto.normalizer_spec.precompiled_charsmap


def train_spm(**options):
    out = io.BytesIO()
    args = dict(sentence_iterator=iter(corpus()), model_writer=out,
                minloglevel=2, character_coverage=0.98, num_threads=1,
                hard_vocab_limit=False)
    args.update(options)
    sentencepiece.SentencePieceTrainer.train(**args)
    proto = spm_pb2.ModelProto.FromString(out.getvalue())
    proto.trainer_spec.ClearField("input")
    proto.trainer_spec.ClearField("model_prefix")
    return proto.SerializeToString()


def build():
    """name -> Tokenizer, or bytes of a tokenizer.model."""
    out = {}
    base = byte_bpe(380)
    bl = decoders.ByteLevel()

    t = bpe_copy(base)
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.decoder = bl
    t.add_special_tokens(["<s>", "</s>"])
    out["gpt2"] = t

    t = bpe_copy(base)
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.decoder = bl
    t.add_special_tokens(["<s>", "</s>",
                          AddedToken("<mask>", lstrip=True, special=True)])
    t.post_processor = processors.RobertaProcessing(
        ("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))
    out["roberta"] = t

    t = bpe_copy(base, ignore_merges=True)
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = bl
    t.add_special_tokens(["<s>", "</s>"])
    t.post_processor = processors.Sequence([
        processors.ByteLevel(), template(t, ["<s>"])])
    out["llama3"] = t

    t = bpe_copy(base)
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = base.pre_tokenizer
    t.decoder = bl
    t.add_special_tokens(["</s>"])
    t.add_tokens([AddedToken("<word>", single_word=True),
                  AddedToken("<mask>", lstrip=True, rstrip=True,
                             normalized=False),
                  AddedToken("the cat", normalized=True)])
    out["qwen2"] = t

    t = bpe_copy(base)
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated") for p in DEEPSEEK] +
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = bl
    out["deepseek"] = t

    t = bpe_copy(base)
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.Split(Regex(O200K), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = bl
    out["o200k"] = t

    vocab, merges = spm_like_bpe(440)
    fallback = [decoders.Replace("▁", " "), decoders.ByteFallback(),
                decoders.Fuse()]
    spm_options = dict(vocab=vocab, merges=merges, unk_token="<unk>",
                       fuse_unk=True, byte_fallback=True)

    t = Tokenizer(models.BPE(**spm_options))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"),
                                         normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(fallback + [decoders.Strip(" ", 1, 0)])
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    t.post_processor = template(t, ["<s>"])
    out["llama2"] = t

    t = Tokenizer(models.BPE(**spm_options))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first",
                                               split=False)
    t.decoder = decoders.Sequence(fallback + [decoders.Strip(" ", 1, 0)])
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    t.post_processor = template(t, ["<s>"], ["</s>"])
    out["mistral"] = t

    t = Tokenizer(models.BPE(**spm_options))
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence(fallback)
    t.add_special_tokens(["<unk>", AddedToken("<s>", normalized=True),
                          "</s>", AddedToken("▁▁the", normalized=False)])
    t.post_processor = template(t, ["<s>"])
    out["gemma"] = t

    few = {k: v for k, v in vocab.items() if not k.startswith("<0x8")}
    ids = {k: i for i, k in enumerate(few)}
    t = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>",
                             fuse_unk=False, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.decoder = decoders.Metaspace()
    out["fallback"] = t

    table = charsmap()
    pre = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(),
                                   pre_tokenizers.Metaspace()])
    t = unigram(300, normalizers.NFKC(), pre)
    t.normalizer = normalizers.Sequence([
        normalizers.Precompiled(table),
        normalizers.Replace(Regex(" {2,}"), "▁")])
    t.decoder = decoders.Metaspace()
    t.post_processor = template(t, [], ["</s>"])
    out["t5"] = t

    t = unigram(260, normalizers.Sequence([
        normalizers.Replace("``", '"'), normalizers.NFKD(),
        normalizers.StripAccents(), normalizers.Lowercase()]),
        pre_tokenizers.Metaspace())
    t.decoder = decoders.Metaspace()
    t.add_tokens([AddedToken("<MASK>", normalized=True),
                  AddedToken("<word>", single_word=True, lstrip=True)])
    out["albert"] = t

    m = json.loads(t.to_str())["model"]
    pieces = [tuple(x) for x in m["vocab"]]
    pieces += [(f"<0x{i:02X}>", 0.0) for i in range(256)]
    t = Tokenizer(models.Unigram(pieces, m["unk_id"], byte_fallback=True))
    t.normalizer = normalizers.Sequence([
        normalizers.Nmt(), normalizers.Strip(), normalizers.NFKC(),
        normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    t.decoder = decoders.Sequence([decoders.ByteFallback(),
                                   decoders.Metaspace(prepend_scheme="first")])
    out["unigram-bytes"] = t

    t = bpe_copy(base)
    t.normalizer = normalizers.Sequence([
        normalizers.NFD(), normalizers.Strip(left=True, right=False)])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Whitespace(), pre_tokenizers.CharDelimiterSplit("t"),
        pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(
            add_prefix_space=True, use_regex=False)])
    out["words"] = t

    out["spm-bpe"] = train_spm(
        model_type="bpe", vocab_size=460, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        user_defined_symbols=["<mask>", "ab", "abc"])
    out["spm-unigram"] = train_spm(
        model_type="unigram", vocab_size=300,
        user_defined_symbols=["<mask>", "xy"],
        normalization_rule_name="identity")
    proto = spm_pb2.ModelProto.FromString(out["spm-unigram"])
    proto.normalizer_spec.precompiled_charsmap = table
    proto.normalizer_spec.name = "user"
    for p in proto.pieces[100:110]:
        p.type = p.UNUSED
    out["spm-charsmap"] = proto.SerializeToString()
    return out


class Reference:
    """A tokenizer of either library, asked the same way."""

    def __init__(self, t):
        self.spm = isinstance(t, bytes)
        self.t = t
        if self.spm:
            self.t = sentencepiece.SentencePieceProcessor(model_proto=t)

    def encode(self, text, bounds):
        if self.spm:
            ids = self.t.encode(text)
            return [self.t.bos_id()] * bounds + ids
        return self.t.encode(text, add_special_tokens=bounds).ids

    def decode(self, ids, skip):
        if self.spm:
            # it spells no special tokens, and the unknown in its own way
            return self.t.decode([i for i in ids if not self.t.is_control(i)
                                  and not self.t.is_unknown(i)])
        return self.t.decode(ids, skip_special_tokens=skip)


def write(out_dir):
    os.makedirs(out_dir, exist_ok=True)
    goldens = {"texts": TEXTS, "tokenizers": []}
    for name, t in build().items():
        file = name + (".model" if isinstance(t, bytes) else ".json")
        with open(os.path.join(out_dir, file), "wb") as f:
            f.write(t if isinstance(t, bytes) else
                    json.dumps(json.loads(t.to_str()), ensure_ascii=False,
                               separators=(",", ":")).encode())
        goldens["tokenizers"].append(golden(file, Reference(t)))
    tiny = os.path.join(ROOT, "testdata/tiny-llama/tokenizer.json")
    goldens["tokenizers"].append(
        golden("../tiny-llama/tokenizer.json",
               Reference(Tokenizer.from_file(tiny))))
    with open(os.path.join(out_dir, "goldens.json"), "w") as f:
        json.dump(goldens, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


def golden(file, r):
    ids = [r.encode(x, True) for x in TEXTS]
    plain = r.encode("a", False)
    full = r.encode("a", True)
    before = next(i for i in range(9) if full[i:i + len(plain)] == plain)
    after = len(full) - len(plain) - before
    for x, y in zip(TEXTS, ids):
        assert r.encode(x, False) == y[before:len(y) - after]

    def decoded(skip):
        out = [r.decode(y, skip) for y in ids]
        return [None if x == y else y for x, y in zip(TEXTS, out)]

    return {"file": file, "before": before, "after": after, "ids": ids,
            "decoded": None if r.spm else decoded(False),
            "skipped": decoded(True)}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", default=os.path.join(ROOT, "testdata/tokenizers"))
    write(p.parse_args().out)


if __name__ == "__main__":
    main()
