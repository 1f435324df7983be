package docs

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	update  = flag.Bool("update", false, "rewrite the generated documents")
	results = flag.String("results", "", "output of `go test -json ./...`: every test named in the table must have passed in it")
)

// A row is one requirement of ledger.md.
type row struct {
	ID, Section, Level, Text, Test string
	Table                          string // heading of its "##" section
}

var idForm = regexp.MustCompile(`^[A-Z0-9]+-[A-Za-z0-9.]+(-[A-Za-z0-9]+)*$`)

func readLedger(t *testing.T) []row {
	t.Helper()
	f, err := os.Open("ledger.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rows []row
	table := ""
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := s.Text()
		if h, ok := strings.CutPrefix(line, "## "); ok {
			table = h
		}
		cells := strings.Split(line, " | ")
		if len(cells) < 5 || !strings.HasPrefix(line, "| ") {
			continue
		}
		id := strings.TrimPrefix(cells[0], "| ")
		if !idForm.MatchString(id) {
			continue
		}
		rows = append(rows, row{id, cells[1], cells[2], strings.Join(cells[3:len(cells)-1], " | "), strings.TrimSuffix(cells[len(cells)-1], " |"), table})
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// Rows that say of themselves that there is nothing to test.
func untestable(r row) bool { return r.Test == "n/a" || r.Test == "doc" }

// mustBeProven are the tables in which no row may be without a test.
func mustBeProven(r row) bool {
	return strings.HasPrefix(r.Table, "RFC 8461") || strings.HasPrefix(r.ID, "ERR-8461")
}

func TestConformanceTableIsCurrent(t *testing.T) {
	rows := readLedger(t)
	if len(rows) < 400 {
		t.Fatalf("only %d rows were found in ledger.md", len(rows))
	}
	proofs := findProofs(t, "..", rows)
	reasons := readReasons(t)
	used := map[string]bool{}
	for _, r := range rows {
		why, pattern := reasons.of(r.ID)
		proven := len(proofs[r.ID]) > 0
		switch {
		case proven || untestable(r):
		case mustBeProven(r), why == "":
			t.Errorf("%s: no test names it, and notdone.md has no reason: %s", r.ID, r.Text)
		default:
			used[pattern] = true
		}
	}
	for _, x := range reasons {
		if !used[x.pattern] {
			t.Errorf("notdone.md: %s is proven, or in no ledger", x.pattern)
		}
	}
	got := render(rows, proofs, reasons)
	if *update {
		if err := os.WriteFile("conformance.md", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("conformance.md is not what ledger and tests say; run: go generate ./docs")
	}
}

// With -results every test that the table names must have run and passed.
func TestNamedTestsPassed(t *testing.T) {
	if *results == "" {
		t.Log("without -results only the names of tests are checked; make test gives it")
		return
	}
	outcome := readResults(t, *results)
	for id, tests := range findProofs(t, "..", readLedger(t)) {
		for _, name := range tests {
			if got := outcome[name]; got != "pass" {
				t.Errorf("%s: %s did not pass but %q", id, name, got)
			}
		}
	}
}

func readResults(t *testing.T, path string) map[string]string {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	outcome := map[string]string{}
	dec := json.NewDecoder(f)
	for dec.More() {
		var e struct{ Action, Package, Test string }
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		switch e.Action {
		case "pass", "fail", "skip":
			outcome[strings.TrimPrefix(e.Package, "stsrelay/")+"."+e.Test] = e.Action
		}
	}
	return outcome
}

// A reason is why rows are not done: those whose ID the pattern matches (path.Match).
type reason struct{ pattern, why string }

type reasonList []reason

func readReasons(t *testing.T) (list reasonList) {
	t.Helper()
	text, err := os.ReadFile("notdone.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) == 2 && idForm.MatchString(strings.ReplaceAll(strings.TrimSpace(cells[0]), "*", "x")) {
			list = append(list, reason{strings.TrimSpace(cells[0]), strings.TrimSpace(cells[1])})
		}
	}
	return list
}

func (list reasonList) of(id string) (why, pattern string) {
	for _, r := range list {
		if ok, _ := path.Match(r.pattern, id); ok {
			return r.why, r.pattern
		}
	}
	return "", ""
}

func render(rows []row, proofs map[string][]string, reasons reasonList) string {
	var b strings.Builder
	b.WriteString("<!-- Made by go generate ./docs from ledger.md and the names of the tests. Do not edit. -->\n")
	b.WriteString("# Conformance\n\nEvery requirement of the [ledger](ledger.md) and the tests that prove it. A row without a test is not claimed; [notdone.md](notdone.md) has the reasons.\n\n")
	b.WriteString("| table | rows | proven | not done |\n|---|---|---|---|\n")
	var tables []string
	for _, r := range rows {
		if !slices.Contains(tables, r.Table) {
			tables = append(tables, r.Table)
		}
	}
	for _, table := range tables {
		n, proven, none := 0, 0, 0
		for _, r := range rows {
			switch {
			case r.Table != table:
				continue
			case len(proofs[r.ID]) > 0:
				proven++
			case untestable(r):
				none++
			}
			n++
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", table, n, proven, n-proven-none)
	}
	for _, table := range tables {
		fmt.Fprintf(&b, "\n## %s\n\n| ID | level | status | tests, or why not |\n|---|---|---|---|\n", table)
		for _, r := range rows {
			if r.Table != table {
				continue
			}
			status, why := "not done", ""
			switch {
			case len(proofs[r.ID]) > 0:
				status, why = "proven", strings.Join(proofs[r.ID], ", ")
			case untestable(r):
				status = "nothing to test"
			default:
				why, _ = reasons.of(r.ID)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.ID, r.Level, status, why)
		}
	}
	return b.String()
}
