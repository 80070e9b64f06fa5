# pq.mk: rules for make that quantize models with pq.
#
#     include /usr/local/share/pq/pq.mk
#     all: llama.nf4.pq llama.int8.pq llama.f16.safetensors
#
# X.TYPE.pq and X.TYPE.safetensors are made from X.safetensors, from X.pq or
# from the model directory X; the directory X.TYPE from the directory X, by its
# model.safetensors or, in shards, by its model.safetensors.index.json:
#
#     all: llama.nf4/model.safetensors
#
# PQ_TYPES           the types there are rules for
# PQ_QUANTIZE_FLAGS  options of pq-quantize for all types
# PQ_FLAGS_nf4 ...   and for one, after them
# PQ_QUANTIZE        the program
#
# The options are an input too: .pq-TYPE.flags holds those of the last run, and
# what they concern is made again when they change.  These are for the whole
# Makefile; values that are set for a single target are not noticed.
#
# Under `make -j` set PQ_THREADS=1 in the environment, or the models compete.

PQ_QUANTIZE ?= pq-quantize
PQ_QUANTIZE_FLAGS ?=
PQ_TYPES ?= nf4 fp4 int8 f16 bf16

# A recipe that fails leaves nothing that looks finished.  (pq itself leaves
# the old target, which is older than its input, so the next run tries again.)
.DELETE_ON_ERROR:

# Phony, and said to be: a bare .SECONDARY in the Makefile would otherwise make
# make forget that the flags have to be looked at.
.PHONY: .pq-force

pq_quote = '$(subst ','\'',$(strip $(PQ_QUANTIZE_FLAGS) $(PQ_FLAGS_$(1))))'
pq_run = $(PQ_QUANTIZE) -t $(1) $(PQ_QUANTIZE_FLAGS) $(PQ_FLAGS_$(1))

# $(call pq_rules,TYPE)
define pq_rules
.pq-$(1).flags: .pq-force
	@printf '%s\n' $$(call pq_quote,$(1)) | cmp -s - $$@ || printf '%s\n' $$(call pq_quote,$(1)) >$$@

%.$(1).pq: %.safetensors .pq-$(1).flags
	$$(call pq_run,$(1)) -o $$@ $$<
%.$(1).pq: %.pq .pq-$(1).flags
	$$(call pq_run,$(1)) -o $$@ $$<
%.$(1).pq: %/model.safetensors .pq-$(1).flags
	$$(call pq_run,$(1)) -o $$@ $$(<D)
%.$(1).pq: %/model.safetensors.index.json .pq-$(1).flags
	$$(call pq_run,$(1)) -o $$@ $$(<D)

%.$(1).safetensors: %.safetensors .pq-$(1).flags
	$$(call pq_run,$(1)) -o $$@ $$<
%.$(1).safetensors: %.pq .pq-$(1).flags
	$$(call pq_run,$(1)) -o $$@ $$<
%.$(1).safetensors: %/model.safetensors .pq-$(1).flags
	$$(call pq_run,$(1)) -o $$@ $$(<D)
%.$(1).safetensors: %/model.safetensors.index.json .pq-$(1).flags
	$$(call pq_run,$(1)) -o $$@ $$(<D)

%.$(1)/model.safetensors: %/model.safetensors .pq-$(1).flags
	$$(call pq_run,$(1)) -o $$(@D)/ $$(<D)
%.$(1)/model.safetensors.index.json: %/model.safetensors.index.json .pq-$(1).flags
	$$(call pq_run,$(1)) -o $$(@D)/ $$(<D)
endef
$(foreach t,$(PQ_TYPES),$(eval $(call pq_rules,$t)))

# What a model directory holds beside its first file is an input too: shards,
# config, tokenizer.  So is a file of rules (--rules=FILE).
pq_dirs := $(sort $(patsubst %/,%,$(dir $(wildcard $(foreach d,* */*,\
	$d/model.safetensors $d/model.safetensors.index.json)))))
pq_outputs = $(foreach t,$(PQ_TYPES),$(1).$t.pq $(1).$t.safetensors \
	$(1).$t/model.safetensors $(1).$t/model.safetensors.index.json)
$(foreach d,$(pq_dirs),$(eval $(call pq_outputs,$d): \
	$(wildcard $d/*.safetensors $d/*.json $d/*.model $d/*.txt)))
$(foreach t,$(PQ_TYPES),$(eval .pq-$t.flags: $(wildcard \
	$(patsubst --rules=%,%,$(filter --rules=%,$(PQ_QUANTIZE_FLAGS) $(PQ_FLAGS_$t))))))
