package admin_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/admin"
	"stsrelay/relay"
	"stsrelay/stscache"

	"github.com/google/go-cmp/cmp"
)

const served = "version: STSv1\r\nmode: enforce\r\nmx: mx.a.example\r\nmx: *.backup.example\r\nmax_age: 86400\r\n"

var fetched = time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)

func (d *desk) put(list ...stscache.Entry) {
	d.t.Helper()
	for _, e := range list {
		if err := d.store.PutPolicy(d.t.Context(), e); err != nil {
			d.t.Fatal(err)
		}
	}
}

func policyA() stscache.Entry {
	return stscache.Entry{Domain: addr.MustDomain("a.example"), Body: []byte(served), ID: "1", Fetched: fetched, Used: fetched}
}

func shownA() admin.PolicyEntry {
	return admin.PolicyEntry{Domain: "a.example", Mode: "enforce", ID: "1", MX: []string{"mx.a.example", "*.backup.example"}, MaxAge: 86400,
		Fetched: fetched, Expires: fetched.Add(24 * time.Hour), Used: fetched}
}

func TestCacheIsListed(t *testing.T) {
	d := open(t, nil)
	d.put(policyA(), stscache.Entry{Domain: addr.MustDomain("b.example"), FailedID: "2", FailedAt: fetched, Failures: 3, Failure: "404"})
	var got []admin.PolicyEntry
	for e, err := range d.client.Policies(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	want := []admin.PolicyEntry{shownA(), {Domain: "b.example", MX: []string{}, Failures: 3, Failure: "404", FailedAt: fetched}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
}

func TestCachedPolicyIsShownAsServed(t *testing.T) {
	d := open(t, nil)
	d.put(policyA())
	want := shownA()
	want.Lines = strings.Split(strings.TrimSuffix(served, "\r\n"), "\r\n")
	for _, name := range []string{"a.example", "A.Example", "a.example."} {
		got, err := d.client.Policy(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", name, diff)
		}
	}
	if _, err := d.client.Policy(t.Context(), "b.example"); !errors.Is(err, admin.ErrNotFound) || !strings.Contains(err.Error(), "b.example") {
		t.Errorf("an unknown one: %v", err)
	}
}

func TestCacheRefresh(t *testing.T) {
	d := open(t, nil)
	d.put(policyA())
	if got, err := d.client.RefreshPolicy(t.Context(), "a.example"); err != nil || got.Mode != "enforce" {
		t.Errorf("%+v, %v", got, err)
	}
	policy := &stscache.Policy{Mode: stscache.Enforce}
	for _, row := range []struct {
		status stscache.Status
		text   string
	}{
		{stscache.Status{Err: stscache.ErrNoRecord}, "a.example: no MTA-STS record"},
		{stscache.Status{Err: stscache.ErrFetch, Policy: policy, Fetched: fetched, Expires: fetched.Add(time.Hour)},
			"a.example: MTA-STS policy fetch failed; the policy of 2026-11-27 09:00:00 stays in force until 2026-11-27 10:00:00"},
	} {
		d.cache.status = row.status
		if _, err := d.client.RefreshPolicy(t.Context(), "a.example"); err == nil || err.Error() != row.text {
			t.Errorf("the error is %v, not %s", err, row.text)
		}
	}
	if !slices.Equal(d.cache.refreshed, []string{"a.example", "a.example", "a.example"}) {
		t.Errorf("%v were refreshed", d.cache.refreshed)
	}
}

func TestCachePurge(t *testing.T) {
	d := open(t, nil)
	d.put(policyA())
	if err := d.client.PurgePolicy(t.Context(), "a.example"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.store.Policy(t.Context(), addr.MustDomain("a.example")); !errors.Is(err, stscache.ErrNotFound) {
		t.Errorf("it is still there: %v", err)
	}
	if got := d.takeRetried(); !slices.Equal(got, []relay.Destination{"a.example"}) {
		t.Errorf("mail to %v is tried again", got)
	}
	if err := d.client.PurgePolicy(t.Context(), "a.example"); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("purging it once more: %v", err)
	}
}

func TestStatusAndHealth(t *testing.T) {
	d := open(t, nil)
	s, err := d.client.Status(t.Context())
	if err != nil || !s.Healthy || s.Schema != "stsrelay.status/v1" || s.Warnings == nil || s.Listeners == nil || s.Destinations == nil {
		t.Errorf("%+v, %v: lists must not be null", s, err)
	}
	want := func(path, host string, code int, text string) {
		t.Helper()
		got, body := request(t, http.DefaultClient, "GET", d.page+path, host, "")
		if got != code || !strings.Contains(body, text) {
			t.Errorf("%s with host %q is %d %q, not %d with %q", path, host, got, body, code, text)
		}
	}
	want("/healthz", "", 200, "ok")
	want("/readyz", "", 200, "ready")
	want("/api/v1/status", "", 200, `"healthy":true`)
	want("/readyz", "localhost:8025", 200, "ready")
	want("/readyz", "[::1]:8025", 200, "ready")

	// A page elsewhere must not read us through a name of its own that it
	// points at loopback, and nobody may act here.
	want("/api/v1/status", "evil.example", 403, "unknown host")
	want("/api/v1/status", "evil.example:8025", 403, "unknown host")
	want("/api/v1/status", "192.0.2.1", 403, "unknown host")
	want("/v1/cache", "", 404, "not found")

	d.mu.Lock()
	d.status.Healthy, d.status.Warnings = false, []string{"the disk is full"}
	d.mu.Unlock()
	want("/healthz", "", 200, "ok")
	want("/readyz", "", 503, "the disk is full")
}
