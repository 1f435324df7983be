package config

import (
	"strings"
	"testing"
)

func TestDecodeStrict(t *testing.T) {
	for text, want := range map[string]struct {
		line int
		says string
	}{
		"a = 1\nb = \"x\"\n":          {1, ""},
		"a = 1\n\nc = 2\n":            {3, "unknown key c"},
		"a = 1\nb = \n":               {2, "value"},
		"a = \"one\"\n":               {1, "a"},
		"a = 1\n[[list]]\nnope = 3\n": {2, "unknown key list"},
	} {
		var v struct {
			A int
			B string
		}
		line, err := DecodeStrict([]byte(text), &v)
		if (err == nil) != (want.says == "") || err != nil && (line != want.line || !strings.Contains(err.Error(), want.says)) {
			t.Errorf("%q: line %d, %v; want line %d and %q", text, line, err, want.line, want.says)
		}
	}
}
