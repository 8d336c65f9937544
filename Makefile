# make help lists the targets.
PREFIX ?= $(HOME)/.local
DESTDIR ?=
ARGS ?=

bindir = $(DESTDIR)$(PREFIX)/bin
libdir = $(DESTDIR)$(PREFIX)/lib/banger
sharedir = $(DESTDIR)$(PREFIX)/share
version = $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Says which sources a binary is of; a daemon of other sources is replaced.
# go.mod's checksums cover the dependencies.
sources = $(shell find cmd internal images go.mod go.sum -type f ! -name '*_test.go' -print0 2>/dev/null | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
ldflags = -s -w -X banger/internal/version.Version=$(version) -X banger/internal/version.build=$(sources)

export CGO_ENABLED = 0

.PHONY: help build test unit e2e lab lab-tools lint install uninstall quickstart bench host-packages clean
.DEFAULT_GOAL = build

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 20

build: ## build the four programs, manual pages and completion into bin/
	go build -trimpath -buildvcs=false -ldflags '$(ldflags)' -o bin/ ./cmd/...
	rm -rf bin/man bin/completion
	mkdir bin/completion
	for shell in bash zsh fish; do bin/banger completion $$shell >bin/completion/$$shell || exit 1; done
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || date +%s)} go run -buildvcs=false ./internal/cli/man bin/man

test: ## everything: host packages, lint, unit tests, end-to-end tests on real VMs, the lab
	./scripts/host-packages --tests
	$(MAKE) --no-print-directory lint unit e2e lab

# What passed is in the build cache, so a second try runs only what failed.
unit: ## unit tests only: no VM, no network
	go test -timeout 10m ./... || { test -n "$(BANGER_TEST_AGAIN)" && echo 'what failed gets a second try' && \
		go test -timeout 10m ./... && echo 'FLAKY: unit tests that failed have passed at a second try'; }

# One test binary at a time: it boots real VMs. See test/e2e/README.md.
e2e: ## end-to-end tests only
	BANGER_E2E=1 go test -count=1 -v -timeout 40m ./test/e2e
	BANGER_E2E=1 go test -count=1 -v -timeout 20m -run '^TestGuest$$' ./internal/vmm/qemu

lab-tools: ## fetch the Firecracker that the lab runs, and check its hash
	./scripts/lab-tools

# See test/lab/README.md.
lab: ## the real Firecracker, in an emulated host with a KVM that works
	BANGER_LAB=1 go test -count=1 -v -timeout 40m ./test/lab

lint: ## go vet, and golangci-lint where it is installed
	go vet ./...
	@if command -v golangci-lint >/dev/null; then golangci-lint run ./...; else echo 'golangci-lint is not installed: only go vet was run'; fi

install: build ## install under PREFIX (default ~/.local)
	install -d '$(bindir)' '$(libdir)'
	install -m 0755 bin/banger bin/bangerd '$(bindir)'
	install -m 0755 bin/banger-shim bin/banger-vsock-agent '$(libdir)'
	install -d '$(sharedir)/man/man1' '$(sharedir)/bash-completion/completions' '$(sharedir)/zsh/site-functions' '$(sharedir)/fish/vendor_completions.d'
	install -m 0644 bin/man/*.1 '$(sharedir)/man/man1'
	install -m 0644 bin/completion/bash '$(sharedir)/bash-completion/completions/banger'
	install -m 0644 bin/completion/zsh '$(sharedir)/zsh/site-functions/_banger'
	install -m 0644 bin/completion/fish '$(sharedir)/fish/vendor_completions.d/banger.fish'

uninstall: ## stop the daemon and remove what install installed; data stays
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' ./scripts/uninstall

quickstart: ## host packages, build, install, and a first VM; ARGS go to `banger vm run`
	@PREFIX='$(PREFIX)' ./scripts/quickstart $(ARGS)

bench: build ## measure, on real VMs, and write docs/performance.md
	./scripts/host-packages --tests
	go run ./test/bench

host-packages: ## install the host packages that are missing, through apt
	./scripts/host-packages

clean: ## remove what build made
	rm -rf bin coverage
