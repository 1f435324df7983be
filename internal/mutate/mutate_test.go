package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// changed are the mutants of a function body, without file and function.
func changed(t *testing.T, signature, body string) (keys []string) {
	t.Helper()
	list, err := mutants("x.go", "package x\n\nfunc f"+signature+" {\n"+body+"\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		keys = append(keys, strings.TrimPrefix(m.key, "x.go f: "))
	}
	return keys
}

func TestMutants(t *testing.T) {
	tests := []struct {
		name, signature, body string
		want                  []string
	}{
		{"a condition is turned round", "()", "if ok { g := 1 }", []string{"ok -> !(ok)"}},
		{"a negated one loses its not", "()", "if !ok { g := 1 }", []string{"!ok -> ok"}},
		{"a comparison changes its operator, once", "()", "if a == b { g := 1 }", []string{"a == b -> a != b"}},
		{"a bound moves by one", "()", "for a < b { g := 1 }", []string{"a < b -> a <= b"}},
		{"operands are turned round, and left out", "() bool", "return a && b",
			[]string{"a && b -> !(a && b)", "a -> !(a)", "b -> !(b)", "a && b -> a", "a && b -> b"}},
		{"a boolean that is returned is turned round, others are not", "() (int, bool)", "return n, ok", []string{"ok -> !(ok)"}},
		{"constants are swapped", "() bool", "return true", []string{"true -> false"}},
		{"a function within a function returns for itself", "() int", "g := func() bool { return ok }", []string{"ok -> !(ok)"}},
		{"a bit is left out", "()", "g := a | b", []string{"a | b -> a", "a | b -> b"}},
		{"bits are left in", "()", "g := a &^ b", []string{"a &^ b -> a"}},
		{"calls and assignments are left out, definitions are not", "()", "d.say(x)\na |= b\nc := d",
			[]string{"d.say(x) -> nothing", "a |= b -> nothing"}},
		{"an early return is left out", "()", "return", []string{"return -> nothing"}},
		{"each case is left out, and each of its values", "()", "switch x {\ncase 1, 2:\n\tg := 1\n}",
			[]string{"case 1, 2: g := 1 -> nothing", "1, -> nothing", ", 2 -> nothing"}},
		{"without a tag each condition is turned round", "()", "switch {\ncase a:\n\tg := 1\n}",
			[]string{"case a: g := 1 -> nothing", "a -> !(a)"}},
		{"the same words twice are told apart", "()", "f()\nf()", []string{"f() -> nothing", "f() -> nothing (2)"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := changed(t, tt.signature, tt.body); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestEquivalents(t *testing.T) {
	got, err := equivalents("# about\n\na.go f: x -> y\n\tbecause of\n\tthis\n")
	if err != nil || len(got) != 1 || got["a.go f: x -> y"] != "because of this" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := equivalents("a.go f: x -> y\n"); err == nil {
		t.Error("a mutant without a reason is accepted")
	}
	if _, err := equivalents("\ta reason\n"); err == nil {
		t.Error("a reason without a mutant is accepted")
	}
}

// TestMutate tries a package of its own, whose tests overlook one thing.
func TestMutate(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":    "module x\n\ngo 1.26\n",
		"x.go":      "package x\n\nfunc small(n int) bool { return n < 10 }\n\nfunc word() (s string) {\n\ts = \"a\"\n\treturn s\n}\n",
		"x_test.go": "package x\n\nimport \"testing\"\n\nfunc TestX(t *testing.T) {\n\tif !small(1) || small(20) || word() != \"a\" {\n\t\tt.Fail()\n\t}\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	list, err := collect(".", []string{"x.go"})
	if err != nil {
		t.Fatal(err)
	}
	fates, err := tryAll(trial{pkg: ".", run: "."}, list)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]fate{}
	for i, m := range list {
		got[m.key] = fates[i]
	}
	want := map[string]fate{"x.go small: n < 10 -> !(n < 10)": killed, "x.go small: n < 10 -> n <= 10": survived, `x.go word: s = "a" -> nothing`: killed}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
	for key, f := range want {
		if got[key] != f {
			t.Errorf("%s: %d, want %d", key, got[key], f)
		}
	}
	if _, err := tryAll(trial{pkg: ".", run: "."}, []mutant{{file: "x.go", source: "package x\n\nvar x int = \"\"\n"}}); err != nil {
		t.Errorf("a mutant that does not compile is no fault of the trial: %v", err)
	}
}
