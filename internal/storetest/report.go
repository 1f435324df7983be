package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/tlsrpt"
)

// TestReports is the contract of tlsrpt.Outbox.
func TestReports(t *testing.T, open Open) {
	for _, c := range slices.Concat(reportCases, reportMailCases, reportFaultCases) {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

const (
	rua    = "mailto:reports@a.example"
	ruaWeb = "https://reports.a.example/v1"
)

func opening(domain string) tlsrpt.Opening {
	d := addr.MustDomain(domain)
	return tlsrpt.Opening{Day: day, Domain: d, ID: tlsrpt.NewID(day, d, addr.MustDomain("relay.example"), "X"+strings.ReplaceAll(domain, ".", ""))}
}

func (h *Harness) openReport(t *testing.T, o tlsrpt.Opening) tlsrpt.Job {
	t.Helper()
	jobs, err := h.OpenReports(t.Context(), []tlsrpt.Opening{o})
	if err != nil || len(jobs) != 1 {
		t.Fatalf("OpenReports: %+v, %v", jobs, err)
	}
	return jobs[0]
}

// claimReports expects the reports of these domains, in this order.
func (h *Harness) claimReports(t *testing.T, want ...string) []tlsrpt.Job {
	t.Helper()
	jobs, _, err := h.ClaimReports(t.Context(), 100)
	if err != nil {
		t.Fatalf("ClaimReports: %v", err)
	}
	var got []string
	for _, j := range jobs {
		got = append(got, j.Domain.String())
		if j.Lease == 0 {
			t.Errorf("%s has no lease", j.Domain)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("claimed %v, want %v", got, want)
	}
	return jobs
}

func (h *Harness) finish(t *testing.T, o tlsrpt.Outcome) {
	t.Helper()
	if err := h.FinishReport(t.Context(), o); err != nil {
		t.Fatalf("FinishReport: %v", err)
	}
}

func (h *Harness) report(t *testing.T, ref tlsrpt.Ref) (tlsrpt.Job, tlsrpt.Tally) {
	t.Helper()
	j, tally, err := h.Report(t.Context(), ref)
	if err != nil {
		t.Fatalf("Report: %v", err)
	}
	return j, tally
}

func (h *Harness) reports(t *testing.T, d tlsrpt.Day) (out []tlsrpt.Job) {
	t.Helper()
	for j, err := range h.Reports(t.Context(), d) {
		if err != nil {
			t.Fatalf("Reports: %v", err)
		}
		out = append(out, j)
	}
	return out
}

func outcome(j tlsrpt.Job, parts ...tlsrpt.Part) tlsrpt.Outcome {
	return tlsrpt.Outcome{Ref: j.Ref, Lease: j.Lease, Parts: parts}
}

func waits(rua string, d time.Duration) tlsrpt.Part {
	return tlsrpt.Part{RUA: rua, State: tlsrpt.Pending, Why: "503", Tries: 1, Due: d}
}

var reportCases = []queueCase{
	{"a tally becomes a report, whole, and is tallied no more", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example", tlsrpt.CertificateExpired), session("a.example"), session("b.example"))
		want := h.tallies(t, day)[0]
		j := h.openReport(t, opening("a.example"))
		if j.Ref != (tlsrpt.Ref{Day: day, Domain: want.Domain, Number: 1}) || j.ID != opening("a.example").ID || j.State != tlsrpt.Pending ||
			j.Sums != (tlsrpt.Summary{Successes: 1, Failures: 1}) || len(j.Parts) != 0 || j.Due != 0 {
			t.Errorf("opened %+v", j)
		}
		got, tally := h.report(t, j.Ref)
		got.Due = 0 // time passes
		if !reflect.DeepEqual(tally, want) || !reflect.DeepEqual(got, j) {
			t.Errorf("it tells %+v, want %+v", tally, want)
		}
		if left := h.tallies(t, day); len(left) != 1 || left[0].Domain.String() != "b.example" {
			t.Errorf("still tallied: %+v", left)
		}
	}},
	{"RPT-4.1-03 late sessions make another report with the next number", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		h.openReport(t, opening("a.example"))
		h.add(t, session("a.example", tlsrpt.DANERequired))
		j := h.openReport(t, opening("a.example"))
		if _, tally := h.report(t, j.Ref); j.Number != 2 || j.Sums != (tlsrpt.Summary{Failures: 1}) || len(tally.Policies) != 1 {
			t.Errorf("%+v, %+v", j, tally)
		}
	}},
	{"RPT-4.2-04 where nothing is tallied there is no report", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example.net"))
		jobs, err := h.OpenReports(t.Context(), []tlsrpt.Opening{opening("a.example")})
		if err != nil || len(jobs) != 0 || len(h.reports(t, "")) != 0 {
			t.Errorf("%+v, %v", jobs, err)
		}
	}},
	{"a copy leaves the tally alone", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		want := h.tallies(t, day)
		o := opening("a.example")
		o.Copy, o.Parts = true, []tlsrpt.Part{{RUA: ruaWeb, State: tlsrpt.Pending}}
		j := h.openReport(t, o)
		if got, tally := h.report(t, j.Ref); !got.Copy || len(got.Parts) != 1 || got.Parts[0].RUA != ruaWeb || !reflect.DeepEqual(tally, want[0]) {
			t.Errorf("%+v, %+v", got, tally)
		}
		if got := h.tallies(t, day); !reflect.DeepEqual(got, want) {
			t.Errorf("tallied: %+v", got)
		}
	}},
	{"Counted names day and domain of what is tallied before a day, in order", func(t *testing.T, h *Harness) {
		for _, d := range []string{"b.example", "a.example", "a.example.net", "a.b"} {
			s := session(d, tlsrpt.CertificateExpired)
			h.add(t, s)
			s.Start = s.Start.AddDate(0, 0, -1)
			h.add(t, s)
			s.Start = s.Start.AddDate(0, 0, 2)
			h.add(t, s)
		}
		var got []string
		for r, err := range h.Counted(t.Context(), "2026-11-02") {
			if err != nil || r.Number != 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			got = append(got, string(r.Day)+" "+r.Domain.String())
		}
		want := []string{"2026-10-31 a.b", "2026-10-31 a.example", "2026-10-31 a.example.net", "2026-10-31 b.example",
			"2026-11-01 a.b", "2026-11-01 a.example", "2026-11-01 a.example.net", "2026-11-01 b.example"}
		if !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
	}},
	{"hundreds of domains are walked, opened and claimed in order", func(t *testing.T, h *Harness) {
		const n = 230
		var sessions []tlsrpt.Session
		for i := range n {
			sessions = append(sessions, session(fmt.Sprintf("d%03d.example", i)))
		}
		h.add(t, sessions...)
		var openings []tlsrpt.Opening
		for r, err := range h.Counted(t.Context(), "2026-11-02") {
			if err != nil {
				t.Fatal(err)
			}
			openings = append(openings, opening(r.Domain.String()))
		}
		jobs, err := h.OpenReports(t.Context(), openings)
		if err != nil || len(jobs) != n || len(h.tallies(t, "")) != 0 || len(h.reports(t, day)) != n {
			t.Fatalf("%d opened of %d, %v", len(jobs), len(openings), err)
		}
		claimed := 0
		for {
			some, _, err := h.ClaimReports(t.Context(), 50)
			if err != nil {
				t.Fatal(err)
			}
			if claimed += len(some); len(some) == 0 {
				break
			}
		}
		if claimed != n {
			t.Errorf("%d claimed", claimed)
		}
	}},
	{"a claimed report is nobody else's until its lease ends", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		h.openReport(t, opening("a.example"))
		first := h.claimReports(t, "a.example")[0]
		h.claimReports(t)
		h.Advance(h.Lease - time.Second)
		h.claimReports(t)
		h.Advance(time.Second)
		second := h.claimReports(t, "a.example")[0]
		if err := h.FinishReport(t.Context(), outcome(first, waits(rua, 0))); !errors.Is(err, tlsrpt.ErrLost) {
			t.Errorf("the first claim finished with %v", err)
		}
		h.finish(t, outcome(second, waits(rua, 0)))
		if err := h.FinishReport(t.Context(), outcome(second, waits(rua, 0))); !errors.Is(err, tlsrpt.ErrLost) {
			t.Errorf("a claim finished twice with %v", err)
		}
	}},
	{"RPT-5.5-01 a delayed part is due after its delay, its age counts from the first attempt, and a restart changes nothing", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		h.openReport(t, opening("a.example"))
		h.finish(t, outcome(h.claimReports(t, "a.example")[0], waits(ruaWeb, time.Hour), waits(rua, 2*time.Hour)))
		if _, next, err := h.ClaimReports(t.Context(), 1); err != nil || next > time.Hour || next < 59*time.Minute {
			t.Errorf("next in %v, %v", next, err)
		}
		h.Reopen(t)
		h.Advance(59 * time.Minute)
		h.claimReports(t)
		h.Advance(2 * time.Minute)
		j := h.claimReports(t, "a.example")[0]
		if p := j.Parts[0]; p.Due > 0 || p.Age < time.Hour || p.Age > 62*time.Minute || p.Tries != 1 || p.Why != "503" || j.Parts[1].Due <= 0 {
			t.Errorf("parts %+v", j.Parts)
		}
		again := waits(ruaWeb, time.Hour)
		again.Tries = 2
		h.finish(t, outcome(j, again))
		h.Advance(30 * time.Minute)
		if p := h.reports(t, day)[0].Parts[0]; p.Tries != 2 || p.Age < 90*time.Minute {
			t.Errorf("part %+v", p)
		}
	}},
	{"a lookup that failed is counted, and its age with it", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		h.openReport(t, opening("a.example"))
		for i := range 2 {
			j := h.claimReports(t, "a.example")[0]
			if j.Looks != i || (j.Age == 0) != (i == 0) {
				t.Errorf("%+v", j)
			}
			h.finish(t, tlsrpt.Outcome{Ref: j.Ref, Lease: j.Lease, Why: "SERVFAIL", Delay: time.Minute})
			h.claimReports(t)
			h.Advance(time.Minute)
		}
		if j := h.reports(t, day)[0]; j.Looks != 2 || j.Why != "SERVFAIL" || j.State != tlsrpt.Pending {
			t.Errorf("%+v", j)
		}
	}},
	{"RPT-3-12 a report is sent when one part is, and waits while one does", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		ref := h.openReport(t, opening("a.example")).Ref
		h.finish(t, outcome(h.claimReports(t, "a.example")[0], waits(rua, 0), waits(ruaWeb, 0)))
		h.finish(t, outcome(h.claimReports(t, "a.example")[0], tlsrpt.Part{RUA: ruaWeb, State: tlsrpt.Sent, Tries: 2}))
		if j, _ := h.report(t, ref); j.State != tlsrpt.Pending {
			t.Errorf("while one waits: %s", j.State)
		}
		h.finish(t, outcome(h.claimReports(t, "a.example")[0], tlsrpt.Part{RUA: rua, State: tlsrpt.Failed, Tries: 2}))
		if j, tally := h.report(t, ref); j.State != tlsrpt.Sent || len(tally.Policies) != 1 {
			t.Errorf("in the end: %+v, %+v", j, tally)
		}
		h.Advance(24 * time.Hour)
		h.claimReports(t)
	}},
	{"RPT-8-02 a report that nobody wants is not kept", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		j := h.openReport(t, opening("a.example"))
		o := outcome(h.claimReports(t, "a.example")[0])
		o.State, o.Why = tlsrpt.Unwanted, "no record"
		h.finish(t, o)
		if got, tally := h.report(t, j.Ref); got.State != tlsrpt.Unwanted || got.Why != "no record" || len(tally.Policies) != 0 {
			t.Errorf("%+v, %+v", got, tally)
		}
		h.claimReports(t)
	}},
	{"HurryReports makes what waits due at once", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"), session("b.example"))
		for _, d := range []string{"a.example", "b.example"} {
			h.openReport(t, opening(d))
		}
		for _, j := range h.claimReports(t, "a.example", "b.example") {
			h.finish(t, outcome(j, waits(rua, time.Hour)))
		}
		h.claimReports(t)
		if err := h.HurryReports(t.Context(), []tlsrpt.Ref{{Day: day, Domain: addr.MustDomain("b.example"), Number: 1}, {Day: day, Domain: addr.MustDomain("c.example"), Number: 1}}); err != nil {
			t.Fatal(err)
		}
		h.claimReports(t, "b.example")
	}},
	{"PruneReports forgets what has ended before one day, and everything before another", func(t *testing.T, h *Harness) {
		ends := map[string]tlsrpt.State{"a.example": tlsrpt.Sent, "b.example": tlsrpt.Pending}
		for i := range 4 {
			for d := range ends {
				s := session(d)
				s.Start = s.Start.AddDate(0, 0, -i)
				h.add(t, s)
				o := opening(d)
				o.Day = s.Day()
				h.openReport(t, o)
				h.add(t, s)
			}
		}
		for range 8 {
			jobs, _, err := h.ClaimReports(t.Context(), 1)
			if err != nil || len(jobs) != 1 {
				t.Fatalf("%v, %v", jobs, err)
			}
			p := waits(ruaWeb, time.Hour)
			p.State = ends[jobs[0].Domain.String()]
			h.finish(t, outcome(jobs[0], p))
		}
		n, err := h.PruneReports(t.Context(), day, day.Add(-2))
		var got []string
		for _, j := range h.reports(t, "") {
			got = append(got, string(j.Day)[8:]+" "+j.Domain.String())
		}
		if want := []string{"30 b.example", "31 b.example", "01 a.example", "01 b.example"}; err != nil || !slices.Equal(got, want) || n != 6 {
			t.Errorf("%d forgotten, %v; left %v", n, err, got)
		}
		if left := h.tallies(t, ""); len(left) != 6 || left[0].Day != "2026-10-30" {
			t.Errorf("tallied: %+v", left)
		}
		if _, _, err := h.Report(t.Context(), tlsrpt.Ref{Day: "2026-10-31", Domain: addr.MustDomain("a.example"), Number: 1}); !errors.Is(err, tlsrpt.ErrNoReport) {
			t.Errorf("a report that is gone says %v", err)
		}
		h.Advance(2 * time.Hour)
		h.claimReports(t, "b.example", "b.example", "b.example")
	}},
	{"sessions, openings and claims at once lose nothing", func(t *testing.T, h *Harness) {
		inParallel(8, func(i int) {
			for range 10 {
				if err := h.Add(t.Context(), []tlsrpt.Session{session("a.example", tlsrpt.DANERequired)}); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					if _, err := h.OpenReports(t.Context(), []tlsrpt.Opening{opening("a.example")}); err != nil {
						t.Error(err)
					}
				}
			}
		})
		sum := int64(0)
		for _, j := range h.reports(t, day) {
			_, tally := h.report(t, j.Ref)
			for _, p := range tally.Policies {
				sum += p.Failures
			}
		}
		for _, tally := range h.tallies(t, day) {
			sum += tally.Policies[0].Failures
		}
		if sum != 80 {
			t.Errorf("%d sessions", sum)
		}
	}},
}

func mailTo(rua, to string) tlsrpt.Mail {
	return tlsrpt.Mail{RUA: rua, From: addr.MustAddress("noreply@relay.example"), To: addr.MustAddress(to), Content: []byte("Subject: x\r\n\r\nreport\r\n"), Expire: 24 * time.Hour}
}

// mailed is a harness with a report whose mail is in the queue, claimed.
func mailed(t *testing.T, h *Harness) (tlsrpt.Ref, relay.Entry) {
	t.Helper()
	h.add(t, session("a.example"))
	ref := h.openReport(t, opening("a.example")).Ref
	o := outcome(h.claimReports(t, "a.example")[0], waits(rua, 0), waits(ruaWeb, time.Hour))
	o.Mail = []tlsrpt.Mail{mailTo(rua, "reports@a.example")}
	h.finish(t, o)
	entries, err := h.Claim(t.Context(), "a.example", 10)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the queue has %+v, %v", entries, err)
	}
	return ref, entries[0]
}

func (h *Harness) wantPart(t *testing.T, ref tlsrpt.Ref, state tlsrpt.State, why string) {
	t.Helper()
	j, _ := h.report(t, ref)
	i := slices.IndexFunc(j.Parts, func(p tlsrpt.Part) bool { return p.RUA == rua })
	if i < 0 || j.Parts[i].State != state || !strings.Contains(j.Parts[i].Why, why) {
		t.Errorf("parts %+v, want %s %s %q", j.Parts, rua, state, why)
	}
}

var reportMailCases = []queueCase{
	{"RPT-3-20 RPT-3-22 the mail enters the queue as a report: no sessions, no bounces, policies ignored, a life of its own", func(t *testing.T, h *Harness) {
		ref, e := mailed(t, h)
		o := e.Options
		if !o.Report || o.Demand != delivery.Ignore || o.Expire != 24*time.Hour || o.Listener != "" || e.From.String() != "noreply@relay.example" ||
			len(e.To) != 1 || e.To[0].Address.String() != "reports@a.example" || e.To[0].Notify != "NEVER" {
			t.Errorf("entry %+v", e)
		}
		if got := h.body(t, e.Message); got != "Subject: x\r\n\r\nreport\r\n" {
			t.Errorf("body %q", got)
		}
		j, _ := h.report(t, ref)
		if j.Parts[0].State != tlsrpt.Queued || j.Parts[0].Mail != string(e.Message) || j.State != tlsrpt.Pending {
			t.Errorf("report %+v", j)
		}
	}},
	{"delivered mail is a part that was sent", func(t *testing.T, h *Harness) {
		ref, e := mailed(t, h)
		h.settle(t, done(e))
		h.wantPart(t, ref, tlsrpt.Sent, "")
	}},
	{"RPT-5.3-09 refused mail is a part that failed, and why", func(t *testing.T, h *Harness) {
		ref, e := mailed(t, h)
		r := done(e)
		r.Note = &relay.Note{Reason: delivery.RemoteReply, Permanent: true, Code: 550, Text: "5.1.1 no such user", MX: "mx.a.example"}
		h.settle(t, r)
		h.wantPart(t, ref, tlsrpt.Failed, "550 5.1.1 no such user")
		h.list(t, relay.Filter{})
	}},
	{"mail that waits says why, over a restart, and is delivered later", func(t *testing.T, h *Harness) {
		ref, e := mailed(t, h)
		r := later(e, time.Hour)
		r.Note = &relay.Note{Reason: delivery.RemoteReply, Code: 450, Text: "4.2.0 greylisted"}
		h.settle(t, r)
		h.wantPart(t, ref, tlsrpt.Queued, "greylisted")
		h.Reopen(t)
		h.Advance(time.Hour)
		h.settle(t, done(h.claim(t, "a.example", e.ID)[0]))
		h.wantPart(t, ref, tlsrpt.Sent, "")
	}},
	{"mail that an operator deletes is a part that failed", func(t *testing.T, h *Harness) {
		ref, e := mailed(t, h)
		h.edit(t, relay.Filter{IDs: []relay.ID{e.ID}}, relay.VerbDelete, 1)
		h.wantPart(t, ref, tlsrpt.Failed, "deleted")
	}},
	{"the queue and the claimant do not undo each other", func(t *testing.T, h *Harness) {
		ref, e := mailed(t, h)
		h.Advance(time.Hour)
		j := h.claimReports(t, "a.example")[0]
		h.settle(t, done(e))
		h.finish(t, outcome(j, waits(rua, time.Hour), tlsrpt.Part{RUA: ruaWeb, State: tlsrpt.Sent, Tries: 2}))
		h.wantPart(t, ref, tlsrpt.Sent, "")
		if j, _ := h.report(t, ref); j.State != tlsrpt.Sent {
			t.Errorf("%+v", j)
		}
	}},
	{"a copy for the operator is nobody's part", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		ref := h.openReport(t, opening("a.example")).Ref
		o := outcome(h.claimReports(t, "a.example")[0], tlsrpt.Part{RUA: ruaWeb, State: tlsrpt.Sent, Tries: 1})
		o.Mail = []tlsrpt.Mail{mailTo("", "ops@relay.example")}
		h.finish(t, o)
		entries, err := h.Claim(t.Context(), "relay.example", 10)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%+v, %v", entries, err)
		}
		r := done(entries[0])
		r.Note = &relay.Note{Reason: delivery.NullMX, Permanent: true}
		h.settle(t, r)
		if j, _ := h.report(t, ref); len(j.Parts) != 1 || j.State != tlsrpt.Sent {
			t.Errorf("%+v", j)
		}
	}},
	{"a large report is kept as any large body", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		ref := h.openReport(t, opening("a.example")).Ref
		o := outcome(h.claimReports(t, "a.example")[0], waits(rua, 0))
		m := mailTo(rua, "reports@a.example")
		m.Content = []byte("Subject: x\r\n\r\n" + strings.Repeat("report\r\n", h.Large/4))
		o.Mail = []tlsrpt.Mail{m}
		h.finish(t, o)
		h.Reopen(t)
		entries, err := h.Claim(t.Context(), "a.example", 10)
		if err != nil || len(entries) != 1 || h.body(t, entries[0].Message) != string(m.Content) {
			t.Fatalf("%+v, %v", entries, err)
		}
		h.settle(t, done(entries[0]))
		h.wantPart(t, ref, tlsrpt.Sent, "")
	}},
	{"other mail is not looked at", func(t *testing.T, h *Harness) {
		ref, _ := mailed(t, h)
		h.accept(t, message("m", "b.example"), "x")
		h.settle(t, done(h.claim(t, "b.example", "ma")[0]))
		h.wantPart(t, ref, tlsrpt.Queued, "")
	}},
	{"forgetting a report leaves its mail to the queue", func(t *testing.T, h *Harness) {
		_, e := mailed(t, h)
		if n, err := h.PruneReports(t.Context(), "", day.Add(1)); err != nil || n != 1 {
			t.Fatalf("%d forgotten, %v", n, err)
		}
		h.settle(t, done(e))
		h.list(t, relay.Filter{})
	}},
}

var reportFaultCases = []queueCase{
	{"RPT-4.1-03 a restart between opening and finishing sends once, under the same ID", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		id := h.openReport(t, opening("a.example")).ID
		h.claimReports(t, "a.example")
		h.Reopen(t)
		j := h.claimReports(t, "a.example")[0]
		if j.ID != id {
			t.Errorf("ID %s, was %s", j.ID, id)
		}
		o := outcome(j, waits(rua, 0))
		o.Mail = []tlsrpt.Mail{mailTo(rua, "reports@a.example")}
		h.finish(t, o)
		h.Reopen(t)
		h.claimReports(t)
		if got, _, err := h.List(t.Context(), relay.Filter{}, "", 10); err != nil || len(got) != 1 {
			t.Errorf("%d mails, %v", len(got), err)
		}
	}},
	{"opening that fails moves nothing", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		h.Fail(NotWritten)
		if _, err := h.OpenReports(t.Context(), []tlsrpt.Opening{opening("a.example")}); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		h.heal()
		if len(h.tallies(t, day)) != 1 || len(h.reports(t, "")) != 0 {
			t.Error("something was moved")
		}
	}},
	{"finishing that fails ends no claim and queues no mail, and can be done again", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		h.openReport(t, opening("a.example"))
		o := outcome(h.claimReports(t, "a.example")[0], waits(rua, 0))
		o.Mail = []tlsrpt.Mail{mailTo(rua, "reports@a.example")}
		h.Fail(NotWritten)
		if err := h.FinishReport(t.Context(), o); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if _, _, err := h.ClaimReports(t.Context(), 1); !errors.Is(err, relay.ErrUnavailable) {
			t.Errorf("a store that cannot write gives a claim: %v", err)
		}
		h.heal()
		h.claimReports(t)
		h.list(t, relay.Filter{})
		h.finish(t, o)
		if got, _, err := h.List(t.Context(), relay.Filter{}, "", 10); err != nil || len(got) != 1 {
			t.Errorf("%d mails, %v", len(got), err)
		}
	}},
	{"finishing that is written and says it failed is not done twice", func(t *testing.T, h *Harness) {
		h.add(t, session("a.example"))
		h.openReport(t, opening("a.example"))
		o := outcome(h.claimReports(t, "a.example")[0], waits(rua, 0))
		o.Mail = []tlsrpt.Mail{mailTo(rua, "reports@a.example")}
		h.Fail(Written)
		if err := h.FinishReport(t.Context(), o); !errors.Is(err, relay.ErrUnknownOutcome) {
			t.Errorf("got %v", err)
		}
		h.heal()
		if err := h.FinishReport(t.Context(), o); !errors.Is(err, tlsrpt.ErrLost) {
			t.Errorf("again: %v", err)
		}
		h.claimReports(t)
		if got, _, err := h.List(t.Context(), relay.Filter{}, "", 10); err != nil || len(got) != 1 {
			t.Errorf("%d mails, %v", len(got), err)
		}
	}},
}
