# pq: build, test, install.  `make help` lists the targets.
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:

VERSION := 0.1.0
prefix ?= /usr/local
bindir ?= $(prefix)/bin
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
mandir ?= $(prefix)/share/man
datadir ?= $(prefix)/share
DESTDIR ?=

CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
AR ?= ar
CFLAGS ?= -O2 -g
B ?= build
SAN ?=

# -ffp-contract=off: the same bits with every compiler and CPU.
PQ_CFLAGS := -std=c11 -D_GNU_SOURCE -ffp-contract=off -fvisibility=hidden \
	-ffile-prefix-map=$(CURDIR)=. -pthread -Wall -Wextra -Wpedantic -Wshadow \
	-Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith \
	-Wwrite-strings -Wformat=2 -Wundef -Ilib -Iformats -Icmd/common
STRICT := -Wconversion -Wno-sign-conversion
LIBS := -lzstd -lxxhash -lcjson -lm -pthread

LIB_SRC := $(sort $(wildcard lib/*.c lib/*/*.c formats/*.c))
CMD_SRC := $(sort $(wildcard cmd/*.c cmd/common/*.c))
TEST_SRC := $(sort $(wildcard tests/test_*.c))
TOOLS := $(filter-out main pq,$(patsubst cmd/%.c,%,$(sort $(wildcard cmd/*.c))))
PROGRAMS := pq $(TOOLS:%=pq-%)

LIB_OBJ := $(LIB_SRC:%.c=$B/obj/%.o)
CMD_OBJ := $(CMD_SRC:%.c=$B/obj/%.o)
TEST_OBJ := $(TEST_SRC:%.c=$B/obj/%.o)

all: $(PROGRAMS:%=$B/bin/%) $B/lib/libpq.a ## build everything into build/

$B/obj/lib/kernels/avx2.o: ISA := $(if $(filter x86_64 amd64,$(shell uname -m)),-mavx2 -mf16c)
$B/obj/lib/%.o $B/obj/formats/%.o: WARN := $(STRICT)
$B/obj/%.o: %.c $B/flags
	@mkdir -p $(@D)
	$(CC) $(PQ_CFLAGS) $(WARN) $(ISA) $(CFLAGS) $(SAN) $(CPPFLAGS) -MMD -MP -c -o $@ $<

# The flags are an input too: everything is rebuilt when they change.
$B/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(PQ_CFLAGS) $(CFLAGS) $(SAN) $(CPPFLAGS)' | cmp -s - $@ || \
	echo '$(CC) $(PQ_CFLAGS) $(CFLAGS) $(SAN) $(CPPFLAGS)' >$@

$B/lib/libpq.a: $(LIB_OBJ)
	@mkdir -p $(@D)
	rm -f $@
	$(AR) rcsD $@ $^

# One program with every tool in it; the names are links to it.
$B/bin/pq: $(CMD_OBJ) $B/lib/libpq.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(LDFLAGS) -o $@ $(CMD_OBJ) $B/lib/libpq.a $(LIBS)
$B/bin/pq-%: $B/bin/pq
	@ln -sf pq $@

$B/tests/unit: $(TEST_OBJ) $B/lib/libpq.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(LDFLAGS) -o $@ $(TEST_OBJ) $B/lib/libpq.a -lcriterion $(LIBS)

unit: $B/tests/unit ## run the unit tests
	$B/tests/unit -j2

clean: ## remove build/
	rm -rf build

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: all unit clean help FORCE
-include $(LIB_OBJ:.o=.d) $(CMD_OBJ:.o=.d) $(TEST_OBJ:.o=.d)
