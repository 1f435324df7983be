package storetest

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"stsrelay/internal/addr"
)

// TestTLSAHosts is the contract of TLSAHosts.
func TestTLSAHosts(t *testing.T, open Open) {
	for _, c := range tlsaCases {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

type hosts = map[addr.Host]time.Time

var (
	mxA, mxB = addr.MustHost("mx.a.example"), addr.MustHost("_odd.b.example")
	noon     = time.Date(2026, 11, 27, 12, 0, 0, 7, time.UTC)
)

func (h *Harness) keepHosts(t *testing.T, list hosts) {
	t.Helper()
	if err := h.KeepTLSAHosts(t.Context(), list); err != nil {
		t.Fatalf("KeepTLSAHosts: %v", err)
	}
}

func (h *Harness) wantHosts(t *testing.T, want hosts) {
	t.Helper()
	got, err := h.TLSAHosts(t.Context())
	if err != nil || !maps.EqualFunc(got, want, time.Time.Equal) {
		t.Errorf("TLSAHosts: %v, %v; want %v", got, err, want)
	}
}

var tlsaCases = []queueCase{
	{"an empty store knows no host", func(t *testing.T, h *Harness) { h.wantHosts(t, nil) }},
	{"hosts are kept and replaced", func(t *testing.T, h *Harness) {
		h.keepHosts(t, hosts{mxA: noon, mxB: noon.Add(time.Hour)})
		h.keepHosts(t, hosts{mxA: noon.Add(time.Minute)})
		h.wantHosts(t, hosts{mxA: noon.Add(time.Minute), mxB: noon.Add(time.Hour)})
	}},
	{"the zero time forgets, also what is not known", func(t *testing.T, h *Harness) {
		h.keepHosts(t, hosts{mxA: noon})
		h.keepHosts(t, hosts{mxA: {}, mxB: {}})
		h.wantHosts(t, nil)
	}},
	{"many hosts are kept at once", func(t *testing.T, h *Harness) {
		list := hosts{}
		for i := range 5000 {
			list[addr.MustHost(fmt.Sprintf("mx%d.example", i))] = noon
		}
		h.keepHosts(t, list)
		h.wantHosts(t, list)
	}},
	{"a failed write changes nothing", func(t *testing.T, h *Harness) {
		h.keepHosts(t, hosts{mxA: noon})
		h.Fail(NotWritten)
		if h.KeepTLSAHosts(t.Context(), hosts{mxA: {}, mxB: noon}) == nil {
			t.Error("no error")
		}
		h.heal()
		h.wantHosts(t, hosts{mxA: noon})
	}},
	{"a context that has ended is an error", func(t *testing.T, h *Harness) {
		if _, err := h.TLSAHosts(canceled(t)); err == nil {
			t.Error("TLSAHosts: no error")
		}
		if err := h.KeepTLSAHosts(canceled(t), hosts{mxA: noon}); err == nil {
			t.Error("KeepTLSAHosts: no error")
		}
		h.wantHosts(t, nil)
	}},
	{"hosts survive a restart", func(t *testing.T, h *Harness) {
		h.keepHosts(t, hosts{mxA: noon, mxB: noon})
		h.Reopen(t)
		h.wantHosts(t, hosts{mxA: noon, mxB: noon})
	}},
}
