# pq: build, test, install.  `make help` lists the targets.
#
# Two commands do the rest on a fresh Debian machine: `make demo` and
# `make check`.  Both begin with `make deps`; DEPS=skip leaves packages alone.
MAKEFLAGS += --no-builtin-rules --no-print-directory
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:

VERSION := 0.1.0
prefix ?= /usr/local
bindir ?= $(prefix)/bin
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
datadir ?= $(prefix)/share
mandir ?= $(datadir)/man

CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
CXX := $(if $(filter default,$(origin CXX)),g++,$(CXX))
AR ?= ar
CFLAGS ?= -O2 -g
B ?= build
SAN ?=
VENV ?= build/venv
FUZZ_TIME ?= 60

# -ffp-contract=off: the same bits with every compiler and CPU.
PQ_CFLAGS := -std=c11 -D_GNU_SOURCE -ffp-contract=off -fvisibility=hidden \
	-ffile-prefix-map=$(CURDIR)=. -pthread -Wall -Wextra -Wpedantic -Wshadow \
	-Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith \
	-Wwrite-strings -Wformat=2 -Wundef -Ilib -Iformats -Icmd/common
STRICT := -Wconversion -Wno-sign-conversion
LIB_LIBS := -lcjson -lzstd -lxxhash -lpcre2-8 -lutf8proc -lm -pthread
LIBS := $(LIB_LIBS) -lyaml
ASAN := -fsanitize=address,undefined -fno-sanitize-recover=all

LIB_SRC := $(sort $(wildcard lib/*.c lib/*/*.c formats/*.c))
CMD_SRC := $(sort $(wildcard cmd/*.c cmd/common/*.c))
TEST_SRC := $(filter-out tests/inject.c,$(sort $(wildcard tests/*.c)))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
PUBLIC := $(sort $(wildcard lib/pq.h lib/pq_*.h formats/pq_*.h))
MAN := $(sort $(wildcard man/*.[1-9]))
TOOLS := $(filter-out main pq,$(patsubst cmd/%.c,%,$(sort $(wildcard cmd/*.c))))
PROGRAMS := pq $(TOOLS:%=pq-%)

LIB_OBJ := $(LIB_SRC:%.c=$B/obj/%.o)
CMD_OBJ := $(CMD_SRC:%.c=$B/obj/%.o)
TEST_OBJ := $(TEST_SRC:%.c=$B/obj/%.o)
FUZZ_BIN := $(FUZZ_SRC:tests/fuzz/%.c=$B/fuzz/%)

all: $(PROGRAMS:%=$B/bin/%) $B/lib/libpq.a ## build everything into build/

# ---- building -------------------------------------------------------------

X86 := $(filter x86_64 amd64,$(shell uname -m))
$B/obj/lib/kernels/avx2.o: ISA := $(X86:%=-mavx2 -mf16c)
$(addprefix $B/obj/lib/kernels/nn_,fma.o fma_rows.o avx512.o avx512_rows.o): ISA := $(X86:%=-mavx2 -mf16c -mfma)
$B/obj/lib/%.o $B/obj/formats/%.o: WARN := $(STRICT)
$B/obj/cmd/common/help.o: DEFS := -DPQ_BUILD_FLAGS='"$(strip $(CFLAGS) $(SAN))"'
$B/obj/%.o: %.c $B/flags
	@mkdir -p $(@D)
	$(CC) $(PQ_CFLAGS) $(WARN) $(ISA) $(DEFS) $(CFLAGS) $(SAN) $(CPPFLAGS) -MMD -MP -c -o $@ $<

# The flags are an input too: everything is rebuilt when they change.
$B/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(PQ_CFLAGS) $(CFLAGS) $(SAN) $(CPPFLAGS)' | cmp -s - $@ || \
	echo '$(CC) $(PQ_CFLAGS) $(CFLAGS) $(SAN) $(CPPFLAGS)' >$@

# So are the lists of objects: a file that is gone must leave the library.
$B/objects: FORCE
	@mkdir -p $(@D)
	@echo '$(LIB_OBJ) $(CMD_OBJ)' | cmp -s - $@ || echo '$(LIB_OBJ) $(CMD_OBJ)' >$@

$B/lib/libpq.a: $(LIB_OBJ) $B/objects
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) rcsD $@ $(LIB_OBJ)

# One program with every tool in it; the names are links to it.
$B/bin/pq: $(CMD_OBJ) $B/lib/libpq.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(LDFLAGS) -o $@ $(CMD_OBJ) $B/lib/libpq.a $(LIBS)
$(TOOLS:%=$B/bin/pq-%): $B/bin/pq
	@ln -sf pq $@

# What the programs share is tested, too; a test takes of it what it needs.
$B/lib/libcmd.a: $(CMD_OBJ) $B/objects
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) rcsD $@ $(filter-out $B/obj/cmd/main.o,$(CMD_OBJ))

$B/tests/unit: $(TEST_OBJ) $B/lib/libcmd.a $B/lib/libpq.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(LDFLAGS) -o $@ $(TEST_OBJ) $B/lib/libcmd.a $B/lib/libpq.a -lcriterion $(LIBS)

$B/fuzz/%: $B/obj/tests/fuzz/%.o $B/lib/libcmd.a $B/lib/libpq.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $B/lib/libcmd.a $B/lib/libpq.a $(LIBS)
$(FUZZ_SRC:%.c=$B/obj/%.o): # kept, or make removes them as intermediate
programs: all $B/tests/unit
fuzzers: $(FUZZ_BIN)

DEB := gcc g++ make pkg-config libzstd-dev libcjson-dev libxxhash-dev \
	libcriterion-dev libopenblas0 libzip-dev libpcre2-dev libutf8proc-dev \
	libyaml-dev mandoc

deps: ## install the Debian packages that are missing (DEPS=skip: do not)
	@[ '$(DEPS)' != skip ] || exit 0; \
	command -v dpkg-query >/dev/null || { \
	    echo 'deps: this is no Debian; install what $(DEB) are here, then use DEPS=skip' >&2; exit 1; }; \
	missing=(); \
	for p in $(DEB); do \
	    [ "$$(dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || missing+=($$p); \
	done; \
	(( $${#missing[@]} )) || exit 0; \
	root=; [ "$$(id -u)" = 0 ] || root=sudo; \
	echo "deps: installing $${missing[*]}"; \
	$$root apt-get -qq update; \
	$$root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install \
	    "$${missing[@]}" >/dev/null

demo: deps ## build, then the main job on the embedded model
	+@$(MAKE) -s all
	@tests/demo.sh $B/bin

CLI := $(addprefix check-cli-,pipes details faults merge recipe peft extract adapters \
    prune prune-data shrink masks eval generate train prompt)
SOURCE_CHECKS := check-headers check-lib check-layers check-warnings
check: deps ## build and run all tests; the last line is the sum
	+@$(MAKE) -s programs
	+@MAKE='$(MAKE)' tests/run.sh unit check-cli $(CLI) $(SOURCE_CHECKS) check-man check-workflow check-install

check-asan: deps ## unit and command-line tests with ASan and UBSan
	+@$(MAKE) -s B=build/asan SAN='$(ASAN)' programs
	+@MAKE='$(MAKE) B=build/asan SAN="$(ASAN)"' PQ_SANITIZED=1 tests/run.sh unit check-cli $(CLI)

# ---- the parts of check ---------------------------------------------------

unit: all $B/tests/unit ## run the unit tests
	@$B/tests/unit -j2

check-cli: all ## contract tests over every tool (CONTRACTS='10 19': only these)
	@PQ_BIN=$(abspath $B/bin) tests/cli/run.sh $(CONTRACTS)
check-cli-%: all
	@PQ_BIN=$(abspath $B/bin) tests/cli/$*.sh

check-man: all ## man pages: lint, sections, options, every example
	@PQ_BIN=$(abspath $B/bin) PQ_CC='$(CC) -I$(CURDIR)/lib -I$(CURDIR)/formats $(SAN)' \
	PQ_LIBS='$(abspath $B/lib/libpq.a) $(LIBS)' tests/check_man.sh

check-workflow: all ## pq.mk in a Makefile: twice, failing, other options
	@PQ_BIN=$(abspath $B/bin) tests/check_workflow.sh

check-install: all ## install into a scratch root, use it there, uninstall all
	@t=$$(mktemp -d); trap 'rm -rf "$$t"' EXIT; \
	$(MAKE) -s install DESTDIR=$$t prefix=/p >/dev/null; \
	$$t/p/bin/pq-info testdata/tiny-llama >/dev/null; \
	$(MAKE) -s uninstall DESTDIR=$$t prefix=/p >/dev/null; \
	! find $$t ! -type d | grep .

check-headers: ## each public header compiles alone, as C11 and as C++
	@for h in $(notdir $(PUBLIC)); do \
	    echo "#include \"$$h\"" | $(CC) -std=c11 -Wall -Wextra -Wpedantic -Werror -Ilib -Iformats -fsyntax-only -xc -; \
	    echo "#include \"$$h\"" | $(CXX) -std=c++11 -Wall -Wextra -Werror -Ilib -Iformats -fsyntax-only -xc++ -; \
	done

IMPURE := exit|abort|printf|puts|fprintf|stderr|stdout|perror|getenv|signal
check-lib: $B/lib/libpq.a ## the library neither prints nor exits nor looks around
	@! nm -A -u $< | grep -E ' U (__)?($(IMPURE))(_chk)?(@.*)?$$'

# cmd -> formats -> lib, never back; no format knows another.
includes = grep -nE '^\#include "($(subst $() ,|,$(notdir $(wildcard $(1)))))"' $(2)
check-layers: ## includes go one way only
	@! $(call includes,formats/*.h cmd/common/*.h,$(wildcard lib/*.[ch] lib/*/*.[ch]))
	@! $(call includes,cmd/common/*.h,$(wildcard formats/*.[ch]))
	@for f in pqstream safetensors; do \
	    if grep -E "^#include \"$$f.*\.h\"" $$(ls formats/*.[ch] | grep -v "/$$f"); then exit 1; fi; done

check-warnings: ## no warning anywhere
	@printf '%s\n' $(LIB_SRC) | xargs -P2 -I% $(CC) $(PQ_CFLAGS) $(STRICT) -mavx2 -mf16c -mfma -Werror -fsyntax-only %
	@printf '%s\n' $(CMD_SRC) $(TEST_SRC) $(wildcard tests/cli/*/*.c testdata/workflow/*.c) | xargs -P2 -I% $(CC) $(PQ_CFLAGS) -Werror -fsyntax-only %

$(VENV)/ok: tests/oracle/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q -r $<
	touch $@
check-oracle: all $(VENV)/ok ## outputs and token ids against the libraries people use
	@for c in oracle adapters prune tokenizers chat nn train pqstream; do \
	    HF_HUB_OFFLINE=1 $(VENV)/bin/python tests/oracle/check_$$c.py $(abspath $B/bin); done

fuzz: ## libFuzzer on every reader, FUZZ_TIME seconds each (needs clang)
	+@$(MAKE) -s CC=clang B=build/fuzz SAN='$(ASAN) -fsanitize=fuzzer-no-link' fuzz-run
fuzz-run: fuzzers
	@FUZZ_TIME=$(FUZZ_TIME) tests/fuzz/run.sh $B $(FUZZ_BIN)

bench: all $(if $(filter none,$(RIVALS)),,$(VENV)/ok) ## figures beside the rivals' (RIVALS=none: without)
	@for b in run surgery pack nn; do PQ_BIN=$(abspath $B/bin) BENCH_VENV=$(VENV) tests/bench/$$b.sh; done

# ---- installing -----------------------------------------------------------

# $(call completions,COMMAND): for each program and shell, with $$file for it
define completions
for tool in $(PROGRAMS); do \
	    shell=bash; file=$(DESTDIR)$(datadir)/bash-completion/completions/$$tool; $(1); \
	    shell=zsh; file=$(DESTDIR)$(datadir)/zsh/site-functions/_$$tool; $(1); \
	    shell=fish; file=$(DESTDIR)$(datadir)/fish/vendor_completions.d/$$tool.fish; $(1); \
	done
endef

install: all ## install into DESTDIR and prefix
	install -d $(addprefix $(DESTDIR),$(bindir) $(includedir)/pq $(libdir)/pkgconfig $(datadir)/pq)
	install -p -m 755 $B/bin/pq $(DESTDIR)$(bindir)
	for t in $(TOOLS); do ln -sf pq $(DESTDIR)$(bindir)/pq-$$t; done
	install -p -m 644 $B/lib/libpq.a $(DESTDIR)$(libdir)
	install -p -m 644 $(PUBLIC) $(DESTDIR)$(includedir)/pq
	install -p -m 644 cmd/pq.mk $(DESTDIR)$(datadir)/pq
	printf '%s\n' 'prefix=$(prefix)' 'libdir=$(libdir)' 'includedir=$(includedir)' 'pqmk=$(datadir)/pq/pq.mk' \
	    '' 'Name: pq' 'Description: quantization of model files' 'Version: $(VERSION)' \
	    'Cflags: -I$${includedir}/pq' 'Libs: -L$${libdir} -lpq $(LIB_LIBS)' \
	    >$(DESTDIR)$(libdir)/pkgconfig/libpq.pc
	for m in $(MAN); do install -D -p -m 644 $$m $(DESTDIR)$(mandir)/man$${m##*.}/$${m#man/}; done
	$(call completions,mkdir -p "$${file%/*}"; $B/bin/$$tool --completion=$$shell >"$$file")

uninstall: ## remove what install put there
	rm -f $(PROGRAMS:%=$(DESTDIR)$(bindir)/%) $(DESTDIR)$(libdir)/libpq.a $(DESTDIR)$(libdir)/pkgconfig/libpq.pc
	rm -rf $(DESTDIR)$(includedir)/pq $(DESTDIR)$(datadir)/pq
	for m in $(MAN); do rm -f $(DESTDIR)$(mandir)/man$${m##*.}/$${m#man/}; done
	$(call completions,rm -f "$$file")

dist: ## a tarball of what is committed
	@mkdir -p build; git archive --prefix=pq-$(VERSION)/ HEAD | gzip -9n >build/pq-$(VERSION).tar.gz

format: ## put all C into the house format
	clang-format -i $(shell find lib formats cmd tests -name '*.[ch]')
check-format: ## say what `make format` would change
	clang-format --dry-run -Werror $(shell find lib formats cmd tests -name '*.[ch]')

clean: ## remove build/
	rm -rf build

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

.PHONY: all programs fuzzers deps demo check check-asan unit check-cli check-man \
	check-workflow check-install check-headers check-lib check-layers check-warnings \
	check-oracle fuzz fuzz-run bench install uninstall dist format check-format clean help FORCE
-include $(LIB_OBJ:.o=.d) $(CMD_OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(FUZZ_SRC:%.c=$B/obj/%.d)
