# make test   everything, nothing skipped; installs what the tests need
# make quick  what needs only Go
# make lint   gofmt, vet, staticcheck
# make bench  benchmarks
# make mutate changes each condition of the decision once; every change must turn a test red
# make fuzz   every fuzz target for FUZZTIME each
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
TOOL := go tool -modfile=internal/tools/go.mod
RESULTS := .results.json
FUZZTIME ?= 30s

.PHONY: build test quick lint deps bench fuzz mutate generate

build:
	CGO_ENABLED=0 go build -trimpath -o bin/stsrelay ./cmd/stsrelay

test: deps lint
	STSRELAY_INTEGRATION=1 $(TOOL) gotestsum --format pkgname --jsonfile $(RESULTS) -- -count=1 ./...
	@! grep -q '"Action":"skip","Package":"[^"]*","Test"' $(RESULTS) || { echo 'make test: a test was skipped:'; grep -h '"Action":"skip"' $(RESULTS); exit 1; }
	go test -count=1 ./docs -results "$(CURDIR)/$(RESULTS)"
	STSRELAY_INTEGRATION=1 go test -race -count=1 ./...
	go run ./cmd/stsrelay lab run

# A test that is left out says why.
quick:
	@code=0; go test -v ./... > $(RESULTS) 2>&1 || code=$$?; \
	grep -E '^(ok|FAIL|panic:)|^ *--- FAIL|left out:' $(RESULTS) || true; exit $$code

lint:
	@test -z "$$(gofmt -l .)" || { echo 'gofmt would change:'; gofmt -l .; exit 1; }
	go vet ./...
	$(TOOL) staticcheck ./...

# The integration tests drive the relay with smtp-source (package postfix) and
# swaks, and have its reports read by python3-dkim.
deps:
	@bash internal/tools/install-test-deps

bench:
	go test -run '^$$' -bench . -benchmem ./...

mutate:
	go run ./internal/mutate -pkg ./delivery decide.go judge.go results.go

fuzz:
	@for p in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "== $$p $$f"; go test $$p -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME); \
	  done; \
	done

generate:
	go generate ./...
