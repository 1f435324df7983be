package admin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/admin"
	"stsrelay/internal/boltstore"
	"stsrelay/relay"
	"stsrelay/stscache"

	"github.com/google/go-cmp/cmp"
)

var refusal = relay.Note{At: time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC), MX: "mx.b.example[192.0.2.1]:25", Reason: delivery.MXNotListed, Code: 451,
	Enhanced: [3]int{4, 4, 8}, Text: "the policy does not name mx.b.example", RFC: "RFC 8461, Section 4.1", Policy: "sts:enforce id=1"}

func TestQueueIsShownInTheNamesOfPostqueue(t *testing.T) {
	d := open(t, nil)
	d.accept("1A", "a@a.example", "hello\r\n", "b@b.example", "c@c.example")
	d.fail("b.example", refusal)
	var got []admin.QueueEntry
	for e, err := range d.client.Queue(t.Context(), relay.Filter{To: "b@b.example"}, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(e.NextAttempt); left <= 50*time.Minute || left > time.Hour {
			t.Errorf("the next attempt is in %s", left)
		}
		if old := time.Now().Unix() - e.ArrivalTime; old < 0 || old > 600 {
			t.Errorf("it arrived %d seconds ago", old)
		}
		e.NextAttempt, e.ArrivalTime = time.Time{}, 0
		got = append(got, e)
	}
	want := []admin.QueueEntry{{
		QueueName: "deferred", QueueID: "1A-1", MessageSize: 7, Sender: "a@a.example",
		Recipients: []admin.Recipient{{Address: "b@b.example", DelayReason: refusal.Text}},
		MessageID:  "1A", Destination: "b.example", Attempts: 1, Reason: "mx-not-listed", Text: refusal.Text,
		Policy: refusal.Policy, MX: refusal.MX, Listener: "in", Upstream: "4711",
		History: []admin.Event{{At: refusal.At, MX: refusal.MX, Reason: "mx-not-listed", Code: 451, Status: "4.4.8", Text: refusal.Text,
			Policy: refusal.Policy, RFC: refusal.RFC}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the entry differs (-want +got):\n%s", diff)
	}
}

func TestServersAreQuotedWithTheirCode(t *testing.T) {
	d := open(t, nil)
	d.accept("1A", "a@a.example", "hello\r\n", "b@b.example")
	d.fail("b.example", relay.Note{Reason: delivery.RemoteReply, Remote: true, Code: 450, Enhanced: [3]int{4, 2, 0}, Text: "4.2.0 greylisted"})
	for e, err := range d.client.Queue(t.Context(), relay.Filter{}, 0) {
		if err != nil || e.Text != "450 4.2.0 greylisted" || e.Recipients[0].DelayReason != e.Text || e.History[0].Code != 450 {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

func TestQueueStates(t *testing.T) {
	d := open(t, nil)
	d.accept("1A", "a@a.example", "x", "b@b.example")
	d.accept("1B", "a@a.example", "x", "c@c.example")
	d.accept("1C", "", "x", "d@d.example")
	if _, err := d.store.Claim(t.Context(), "b.example", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := d.client.Edit(t.Context(), relay.Filter{IDs: []relay.ID{"1B"}}, relay.Action{Verb: relay.VerbHold, Reason: "ticket 4711"}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for e, err := range d.client.Queue(t.Context(), relay.Filter{}, 0) {
		if err != nil {
			t.Fatal(err)
		}
		got[e.QueueID] = e.QueueName + " " + e.HoldReason + " " + e.Sender
	}
	want := map[string]string{"1A": "active  a@a.example", "1B": "hold ticket 4711 a@a.example", "1C": "deferred  "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the states differ (-want +got):\n%s", diff)
	}
}

// TestQueueListGoesOnBehindAPage has more entries than the store returns at a
// time.
func TestQueueListGoesOnBehindAPage(t *testing.T) {
	d := open(t, nil)
	to := make([]string, 1100)
	for i := range to {
		to[i] = fmt.Sprintf("x@d%04d.example", i)
	}
	d.accept("1A", "a@a.example", "x", to...)
	for _, row := range []struct{ limit, want int }{{0, 1100}, {1, 1}, {500, 500}, {501, 501}, {2000, 1100}} {
		ids := d.queue(relay.Filter{}, row.limit)
		if len(ids) != row.want || !slices.IsSorted(ids) || len(slices.Compact(ids)) != row.want {
			t.Errorf("with limit %d there are %d entries, not %d", row.limit, len(ids), row.want)
		}
	}
}

func TestQueueEdit(t *testing.T) {
	all := []relay.Destination{"b.example", "c.example"}
	for _, row := range []struct {
		verb    relay.Verb
		filter  relay.Filter
		dry     bool
		count   int
		retried []relay.Destination
		left    []string // ids in the queue behind it
	}{
		{verb: relay.VerbRetry, count: 2, retried: all, left: []string{"1A", "1B"}},
		{verb: relay.VerbRetry, dry: true, count: 2, left: []string{"1A", "1B"}},
		{verb: relay.VerbHold, count: 2, left: []string{"1A", "1B"}},
		{verb: relay.VerbRelease, count: 2, retried: all, left: []string{"1A", "1B"}},
		{verb: relay.VerbBounce, count: 2, retried: all, left: []string{"1A", "1B"}},
		{verb: relay.VerbDelete, filter: relay.Filter{To: "@b.example"}, count: 1, left: []string{"1B"}},
		{verb: relay.VerbDelete, dry: true, count: 2, left: []string{"1A", "1B"}},
		{verb: relay.VerbDelete, filter: relay.Filter{IDs: []relay.ID{"9Z"}}, count: 0, left: []string{"1A", "1B"}},
	} {
		t.Run(fmt.Sprintf("%s %+v dry %t", row.verb, row.filter, row.dry), func(t *testing.T) {
			d := open(t, nil)
			d.accept("1A", "a@a.example", "x", "b@b.example")
			d.accept("1B", "a@a.example", "x", "c@c.example")
			done, err := d.client.Edit(t.Context(), row.filter, relay.Action{Verb: row.verb, DryRun: row.dry, Reason: "ticket 4711"})
			if err != nil || done.Count != row.count {
				t.Errorf("%d entries are edited, not %d (%v)", done.Count, row.count, err)
			}
			got := d.takeRetried()
			slices.Sort(got)
			if !slices.Equal(got, row.retried) {
				t.Errorf("%v are tried again, not %v", got, row.retried)
			}
			if left := d.queue(relay.Filter{}, 0); !slices.Equal(left, row.left) {
				t.Errorf("%v are queued, not %v", left, row.left)
			}
			if d.logged("ticket 4711") == row.dry {
				t.Errorf("dry %t, and the log has: %s", row.dry, d.log.String())
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	d := open(t, nil)
	d.accept("1A", "a@a.example", "x", "b@b.example")
	for _, row := range []struct {
		name, method, path, body string
		code                     int
		text                     string
	}{
		{"no JSON", "POST", "/v1/queue/list", "{", 400, "unexpected EOF"},
		{"an unknown field, such as of a newer client", "POST", "/v1/queue/edit", `{"Filter":{"Sender":"x"}}`, 400, `unknown field "Sender"`},
		{"an unknown verb", "POST", "/v1/queue/edit", `{"Action":{"Verb":"burn"}}`, 400, `"burn" is not one of [retry hold release delete bounce]`},
		{"no verb", "POST", "/v1/queue/edit", `{}`, 400, `"" is not one of`},
		{"more than a mebibyte", "POST", "/v1/queue/list", `{"Filter":{"To":"` + strings.Repeat("x", 1<<20) + `"}}`, 400, "too large"},
		{"no domain", "GET", "/v1/cache/a..b", "", 400, "a..b"},
		{"no domain to refresh", "POST", "/v1/cache/a..b/refresh", "", 400, "a..b"},
		{"no domain to purge", "POST", "/v1/cache/a..b/purge", "", 400, "a..b"},
		{"a domain that is not cached", "GET", "/v1/cache/unknown.example", "", 404, "no MTA-STS policy of unknown.example is cached"},
		{"to purge a domain that is not cached", "POST", "/v1/cache/unknown.example/purge", "", 404, "no MTA-STS policy of unknown.example is cached"},
		{"another method", "GET", "/v1/queue/edit", "", 404, "not found"},
		{"another path", "GET", "/v2/queue", "", 404, "not found"},
	} {
		t.Run(row.name, func(t *testing.T) {
			code, text := d.raw(row.method, row.path, row.body)
			if code != row.code || !strings.Contains(text, row.text) {
				t.Errorf("the answer is %d %q, not %d with %q", code, text, row.code, row.text)
			}
		})
	}
	if left := d.queue(relay.Filter{}, 0); !slices.Equal(left, []string{"1A"}) {
		t.Errorf("%v are queued", left)
	}
}

// failing is a store whose lists end with an error behind n entries.
type failing struct {
	*boltstore.Store
	n int
}

var errDisk = errors.New("the disk has had enough")

func (f failing) List(ctx context.Context, filter relay.Filter, after relay.Cursor, n int) ([]relay.Entry, relay.Cursor, error) {
	if after != "" || f.n == 0 {
		return nil, "", errDisk
	}
	list, _, err := f.Store.List(ctx, filter, after, f.n)
	return list, "more", err
}

func (f failing) Edit(context.Context, relay.Filter, relay.Action) (relay.Edited, error) {
	return relay.Edited{}, errDisk
}

func (f failing) Policies(ctx context.Context) iter.Seq2[stscache.Entry, error] {
	return func(yield func(stscache.Entry, error) bool) {
		for range f.n {
			if !yield(stscache.Entry{Domain: addr.MustDomain("a.example")}, nil) {
				return
			}
		}
		yield(stscache.Entry{}, errDisk)
	}
}

func TestStoreErrorsReachTheCommand(t *testing.T) {
	for _, n := range []int{0, 1} {
		t.Run(fmt.Sprintf("behind %d entries", n), func(t *testing.T) {
			d := open(t, func(o *admin.Options) {
				f := failing{o.Queue.(*boltstore.Store), n}
				o.Queue, o.Entries = f, f
			})
			d.accept("1A", "a@a.example", "x", "b@b.example")
			check := func(what string, err error) {
				t.Helper()
				switch {
				case err == nil:
					t.Errorf("%s ends as if it were whole", what)
				case n == 0 && err.Error() != errDisk.Error(), n > 0 && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
					t.Errorf("%s: %v", what, err)
				}
			}
			check("the queue", last(d.client.Queue(t.Context(), relay.Filter{}, 0)))
			check("the cache", last(d.client.Policies(t.Context())))
			if _, err := d.client.Edit(t.Context(), relay.Filter{}, relay.Action{Verb: relay.VerbRetry}); err == nil || err.Error() != errDisk.Error() {
				t.Errorf("edit: %v", err)
			}
			if len(d.takeRetried()) != 0 || !d.logged(errDisk.Error()) {
				t.Errorf("the log has %s", d.log.String())
			}
		})
	}
}

// last returns the last error of a list.
func last[T any](seq iter.Seq2[T, error]) (err error) {
	for _, err = range seq {
	}
	return err
}
