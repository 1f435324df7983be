package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync"
)

// A wiretap shows an SMTP conversation line by line, without the content.
type wiretap struct {
	p printer

	mu      sync.Mutex
	at      netip.AddrPort
	parts   [2][]byte // of lines, by direction
	content int       // lines of content so far
	inside  bool      // the server waits for content, or gets it
}

func newWiretap(p printer) *wiretap { return &wiretap{p: p} }

// hear takes what was said, in portions of any size.
func (t *wiretap) hear(to netip.AddrPort, sent bool, b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if to != t.at {
		t.at, t.parts, t.inside = to, [2][]byte{}, false
		fmt.Fprintf(t.p.w, "   connected to %s\n", to)
	}
	i := 0
	if sent {
		i = 1
	}
	b = append(t.parts[i], b...)
	for {
		line, rest, found := bytes.Cut(b, []byte("\n"))
		if !found {
			break
		}
		b = rest
		t.line(sent, string(bytes.TrimSuffix(line, []byte("\r"))))
	}
	t.parts[i] = bytes.Clone(b)
}

func (t *wiretap) line(sent bool, s string) {
	switch {
	case !sent:
		fmt.Fprintf(t.p.w, "<- %s\n", printable(s))
		if len(s) >= 4 && s[:4] == "354 " {
			t.inside, t.content = true, 0
		}
	case t.inside && s == ".":
		t.inside = false
		fmt.Fprintf(t.p.w, "-> (%s)\n-> .\n", plural(t.content, "line"))
	case t.inside:
		t.content++
	default:
		fmt.Fprintf(t.p.w, "-> %s\n", printable(s))
	}
}
