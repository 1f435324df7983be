package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/stscache"
)

// TestPolicies is the contract of stscache.Store.
func TestPolicies(t *testing.T, open Open) {
	for _, c := range policyCases {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func policy(domain string) stscache.Entry {
	return stscache.Entry{Domain: addr.MustDomain(domain), Body: []byte("version: STSv1\r\nmode: enforce\r\n\x00\xff"), ID: "20261101",
		Fetched: time.Date(2026, 11, 1, 2, 3, 4, 5, time.UTC), Used: time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC),
		FailedID: "20261102", FailedAt: time.Date(2026, 11, 3, 0, 0, 0, 0, time.UTC), Failures: 3, Failure: "x509: no"}
}

func (h *Harness) put(t *testing.T, e stscache.Entry) {
	t.Helper()
	if err := h.PutPolicy(t.Context(), e); err != nil {
		t.Fatalf("PutPolicy: %v", err)
	}
}

func (h *Harness) wantPolicy(t *testing.T, want stscache.Entry) {
	t.Helper()
	got, err := h.Policy(t.Context(), want.Domain)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Policy: %+v, %v; want %+v", got, err, want)
	}
}

func (h *Harness) policies(t *testing.T) (names []string) {
	t.Helper()
	for e, err := range h.Policies(t.Context()) {
		if err != nil {
			t.Fatalf("Policies: %v", err)
		}
		names = append(names, e.Domain.String())
	}
	return names
}

var policyCases = []queueCase{
	{"Policy of a domain nothing is kept of is ErrNotFound", func(t *testing.T, h *Harness) {
		h.put(t, policy("a.example.net"))
		if _, err := h.Policy(t.Context(), addr.MustDomain("a.example")); !errors.Is(err, stscache.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	}},
	{"PutPolicy keeps every field, and replaces", func(t *testing.T, h *Harness) {
		h.put(t, policy("a.example"))
		h.wantPolicy(t, policy("a.example"))
		h.put(t, stscache.Entry{Domain: addr.MustDomain("a.example")})
		h.wantPolicy(t, stscache.Entry{Domain: addr.MustDomain("a.example")})
	}},
	{"an empty body is not a missing one", func(t *testing.T, h *Harness) {
		h.put(t, stscache.Entry{Domain: addr.MustDomain("a.example"), Body: []byte{}})
		if e, err := h.Policy(t.Context(), addr.MustDomain("a.example")); err != nil || e.Body == nil {
			t.Errorf("%+v, %v", e, err)
		}
	}},
	{"a policy of the largest size is kept", func(t *testing.T, h *Harness) {
		e := policy("a.example")
		e.Body = slices.Repeat([]byte("mx: mx.a.example\n"), 4000)
		h.put(t, e)
		h.wantPolicy(t, e)
	}},
	{"PutPolicy without a domain is an error", func(t *testing.T, h *Harness) {
		if h.PutPolicy(t.Context(), stscache.Entry{ID: "x"}) == nil {
			t.Error("no error")
		}
	}},
	{"DeletePolicy forgets, and of an unknown domain is no error", func(t *testing.T, h *Harness) {
		h.put(t, policy("a.example"))
		for range 2 {
			if err := h.DeletePolicy(t.Context(), addr.MustDomain("a.example")); err != nil {
				t.Error(err)
			}
		}
		if got := h.policies(t); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
	}},
	{"Policies yields every entry in order of domain", func(t *testing.T, h *Harness) {
		var want []string
		for i := range 250 {
			name := fmt.Sprintf("d%03d.example", 249-i)
			h.put(t, policy(name))
			want = append(want, name)
		}
		slices.Sort(want)
		if got := h.policies(t); !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		for e := range h.Policies(t.Context()) {
			if e.Domain.String() != "d000.example" {
				t.Errorf("first is %s", e.Domain)
			}
			break // ending early is fine
		}
	}},
	{"the store may be written between two entries of Policies", func(t *testing.T, h *Harness) {
		for i := range 5 {
			h.put(t, policy(fmt.Sprintf("d%d.example", i)))
		}
		n := 0
		for e, err := range h.Policies(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			if err := h.DeletePolicy(t.Context(), e.Domain); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.policies(t); n != 5 || len(got) != 0 {
			t.Errorf("%d entries seen, %v left", n, got)
		}
	}},
	{"Policies with a context that has ended says so", func(t *testing.T, h *Harness) {
		h.put(t, policy("a.example"))
		var last error
		for _, err := range h.Policies(canceled(t)) {
			last = err
		}
		if last == nil {
			t.Error("no error")
		}
	}},
	{"policies survive a restart", func(t *testing.T, h *Harness) {
		h.put(t, policy("a.example"))
		h.Reopen(t)
		h.wantPolicy(t, policy("a.example"))
	}},
}
