package tlsrpt_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/tlsrpt"
)

// inBubble runs a test with a Sender that has not been started.
func inBubble(t *testing.T, name string, change func(*tlsrpt.Options), f func(t *testing.T, b *bubble)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, newBubble(t, change)) })
	})
}

const day = 24 * time.Hour

func answers(status ...int) func(n int) tlsrpt.Answer {
	return func(n int) tlsrpt.Answer { return tlsrpt.Answer{Status: status[min(n, len(status))-1]} }
}

func TestSending(t *testing.T) {
	inBubble(t, "RPT-4.1-01 RPT-4.1-02 RPT-4.2-01 a day's sessions, all good, are reported after the day at the domain's own time", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/v1")
		b.start()
		b.count("a.example", 5)
		time.Sleep(day - time.Nanosecond)
		synctest.Wait()
		if len(b.received("")) != 0 || len(b.jobs()) != 0 {
			t.Fatalf("before the day has ended: %+v", b.received(""))
		}
		time.Sleep(4*time.Hour + time.Second)
		synctest.Wait()
		got := b.received("r.example")
		if len(got) != 1 {
			t.Fatalf("%d posts", len(got))
		}
		want := tlsrpt.OpensAt(tlsrpt.Ref{Day: "2000-01-01", Domain: addr.MustDomain("a.example")}, sender, tlsrpt.DefaultSpread, time.Time{})
		r := got[0].Report
		if !got[0].At.Equal(want) || r.day() != "2000-01-01" || !r.Range.End.Equal(r.Range.Start.Add(day-time.Second)) ||
			r.Policies[0].Summary.Good != 5 || r.Policies[0].Summary.Bad != 0 {
			t.Errorf("at %v, want %v: %+v", got[0].At, want, r)
		}
		if j := b.one(); j.State != tlsrpt.Sent || j.ID != r.ID || j.Parts[0].State != tlsrpt.Sent {
			t.Errorf("report %+v", j)
		}
		b.end()
	})
	inBubble(t, "RPT-3-01 RPT-3-13 RPT-8-02 the record is asked for at report time, at its one name, and none found discards the counts", nil, func(t *testing.T, b *bubble) {
		b.publish("a.b.example", "https://r.example/v1")
		b.publish("b.example", "https://r.example/v1")
		b.start()
		b.count("a.b.example", 1)
		time.Sleep(12 * time.Hour)
		synctest.Wait()
		if slices.Contains(b.asked, "_smtp._tls.a.b.example") {
			t.Error("asked before the day has ended")
		}
		b.publish("a.b.example", "")
		time.Sleep(day)
		synctest.Wait()
		asked := slices.DeleteFunc(slices.Clone(b.asked), func(n string) bool { return n == keyName })
		if j := b.one(); j.State != tlsrpt.Unwanted || len(b.received("")) != 0 || !slices.Equal(asked, []string{"_smtp._tls.a.b.example"}) {
			t.Errorf("%+v, %d posts, asked %v", j, len(b.received("")), asked)
		}
		if _, tally, err := b.store.Report(t.Context(), b.one().Ref); err != nil || len(tally.Policies) != 0 {
			t.Errorf("kept: %+v, %v", tally, err)
		}
		b.end()
	})
	inBubble(t, "RPT-4.2-04 an idle domain gets nothing", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/v1")
		b.start()
		time.Sleep(3 * day)
		synctest.Wait()
		if len(b.jobs()) != 0 || len(b.received("")) != 0 {
			t.Errorf("%+v", b.jobs())
		}
		b.end()
	})
	inBubble(t, "RPT-4.1-03 RPT-3-13 RPT-4.1-02 DNS that fails for now loses nothing, and the day stays the right one", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/v1")
		b.fail("_smtp._tls.a.example", servfail)
		b.start()
		b.count("a.example", 3)
		time.Sleep(day + 10*time.Hour)
		synctest.Wait()
		if j := b.one(); j.State != tlsrpt.Pending || j.Looks < 3 || !strings.Contains(j.Why, "SERVFAIL") {
			t.Fatalf("%+v", j)
		}
		b.fail("_smtp._tls.a.example", nil)
		time.Sleep(16 * time.Hour)
		synctest.Wait()
		if got := b.received("r.example"); len(got) != 1 || got[0].Report.day() != "2000-01-01" || got[0].Report.Policies[0].Summary.Good != 3 {
			t.Errorf("%+v", got)
		}
		b.end()
	})
	inBubble(t, "RPT-5.5-01 DNS that fails for a day is given up", nil, func(t *testing.T, b *bubble) {
		b.fail("_smtp._tls.a.example", servfail)
		b.start()
		b.count("a.example", 3)
		time.Sleep(3 * day)
		synctest.Wait()
		if j := b.one(); j.State != tlsrpt.GivenUp || !strings.Contains(j.Why, "SERVFAIL") || j.Looks > 10 {
			t.Errorf("%+v", j)
		}
		b.end()
	})
	inBubble(t, "RPT-5.4-04 RPT-5.5-01 a rua that answers 500 and then 200 gets the same report again, and then no more", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/v1")
		b.endpoint("r.example", answers(500, 500, 200))
		b.start()
		b.count("a.example", 1)
		time.Sleep(4 * day)
		synctest.Wait()
		got := b.received("r.example")
		if len(got) != 3 || got[0].Report.ID != got[1].Report.ID || got[1].Report.ID != got[2].Report.ID {
			t.Fatalf("%+v", got)
		}
		if one, two := got[1].At.Sub(got[0].At), got[2].At.Sub(got[1].At); one < 15*time.Minute || one > 17*time.Minute || two < 30*time.Minute || two > 34*time.Minute {
			t.Errorf("after %v and %v", one, two)
		}
		if j := b.one(); j.State != tlsrpt.Sent || j.Parts[0].Tries != 3 {
			t.Errorf("%+v", j)
		}
		b.end()
	})
	inBubble(t, "RPT-5.5-01 an endpoint that is down is tried for 24 hours, no longer, and nobody gets a bounce", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/v1")
		b.endpoint("r.example", answers(503))
		b.start()
		b.count("a.example", 1)
		time.Sleep(4 * day)
		synctest.Wait()
		got := b.received("r.example")
		if last := got[len(got)-1].At.Sub(got[0].At); len(got) != 8 || last > day || last < 23*time.Hour {
			t.Errorf("%d attempts, the last after %v", len(got), last)
		}
		if j := b.one(); j.State != tlsrpt.GivenUp || !strings.Contains(j.Parts[0].Why, "503") || len(b.queue()) != 0 {
			t.Errorf("%+v", j)
		}
		b.end()
	})
	inBubble(t, "RPT-5.5-02 RPT-3-12 a refusal ends one destination and not the other, and one that took it is enough", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://gone.example/v1,https://r.example/v1")
		b.endpoint("gone.example", answers(404))
		b.endpoint("r.example", answers(500, 201))
		b.start()
		b.count("a.example", 1)
		time.Sleep(3 * day)
		synctest.Wait()
		if len(b.received("gone.example")) != 1 || len(b.received("r.example")) != 2 {
			t.Errorf("%+v", b.received(""))
		}
		if j := b.one(); j.State != tlsrpt.Sent || j.Parts[0].State != tlsrpt.Failed || j.Parts[1].State != tlsrpt.Sent {
			t.Errorf("%+v", j)
		}
		b.end()
	})
	inBubble(t, "RPT-3-12 with none that took it the report is not sent", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://x.example/v1,https://y.example/v1")
		b.endpoint("x.example", answers(400))
		b.endpoint("y.example", answers(410))
		b.start()
		b.count("a.example", 1)
		time.Sleep(2 * day)
		synctest.Wait()
		if j := b.one(); j.State != tlsrpt.Failed {
			t.Errorf("%+v", j)
		}
		b.end()
	})
	inBubble(t, "a destination that is no URI, and one that hangs, stop neither the others nor the run", func(o *tlsrpt.Options) { o.Workers = 2 }, func(t *testing.T, b *bubble) {
		release := make(chan struct{})
		b.endpoint("slow.example", func(int) tlsrpt.Answer { <-release; return tlsrpt.Answer{Err: errors.New("cut")} })
		b.publish("a.example", "https://slow.example/v1")
		b.publish("b.example", "reports@b.example,mailto:,https://r.example/b")
		b.publish("c.example", "nothing-usable")
		b.publish("d.example", "https://r.example/d")
		b.start()
		for _, d := range []string{"a.example", "b.example", "c.example", "d.example"} {
			b.count(d, 1)
		}
		time.Sleep(day + 5*time.Hour)
		synctest.Wait()
		if got := b.received("r.example"); len(got) != 2 {
			t.Errorf("%+v", got)
		}
		for _, j := range b.jobs() {
			if j.Domain.String() == "c.example" && (j.State != tlsrpt.Unwanted || !strings.Contains(j.Why, "mailto")) {
				t.Errorf("%+v", j)
			}
			if j.Domain.String() == "b.example" && (j.State != tlsrpt.Sent || len(j.Parts) != 3) {
				t.Errorf("%+v", j)
			}
		}
		close(release)
		b.end()
	})
	inBubble(t, "RPT-7-01 many domains with one collector are sent one after the other", func(o *tlsrpt.Options) { o.Spread = -1; o.HostGap = 10 * time.Second }, func(t *testing.T, b *bubble) {
		b.start()
		for i := range 30 {
			d := fmt.Sprintf("d%d.example", i)
			b.publish(d, "https://r.example/"+d)
			b.count(d, 1)
		}
		time.Sleep(day + time.Hour)
		synctest.Wait()
		got := b.received("r.example")
		for i := 1; i < len(got); i++ {
			if gap := got[i].At.Sub(got[i-1].At); gap < 10*time.Second {
				t.Errorf("%v between two", gap)
			}
		}
		if len(got) != 30 || got[29].At.Sub(got[0].At) > 6*time.Minute {
			t.Errorf("%d posts", len(got))
		}
		b.end()
	})
}

// TestDayBoundary: sessions come all the time, and end after the day they
// began on; every one is in exactly one report, and that of its day.
func TestDayBoundary(t *testing.T) {
	inBubble(t, "RPT-4.1-01 RPT-4.1-03 a day boundary crossed under load", nil, func(t *testing.T, b *bubble) {
		const domains = 7
		want := map[string]int{}
		for i := range domains {
			b.publish(fmt.Sprintf("d%d.example", i), fmt.Sprintf("https://r%d.example/", i))
		}
		b.start()
		time.Sleep(day - 10*time.Minute)
		for i := range 1200 { // until ten minutes after midnight
			d := fmt.Sprintf("d%d.example", i%domains)
			s := sessionOf(d)
			want[string(s.Day())+" "+d]++
			go func() {
				time.Sleep(time.Duration(i%300) * time.Minute / 2) // up to two and a half hours late
				if err := b.store.Add(t.Context(), []tlsrpt.Session{s}); err != nil {
					t.Error(err)
				}
			}()
			time.Sleep(time.Second)
		}
		time.Sleep(4 * day)
		synctest.Wait()
		got, ids, days := map[string]int{}, map[string]bool{}, map[string]int{}
		for _, p := range b.received("") {
			if ids[p.Report.ID] {
				t.Errorf("%s came twice", p.Report.ID)
			}
			ids[p.Report.ID] = true
			key := p.Report.day() + " " + p.Report.domain()
			got[key] += p.Report.Policies[0].Summary.Good
			days[key]++
			if end := p.Report.Range.End; !p.At.After(end) {
				t.Errorf("a report about %s was sent at %v", key, p.At)
			}
		}
		if len(want) != 2*domains {
			t.Fatalf("the test is wrong: %v", want)
		}
		for key, n := range want {
			if got[key] != n || days[key] > 2 {
				t.Errorf("%s: %d sessions in %d reports, want %d", key, got[key], days[key], n)
			}
		}
		if len(got) != len(want) {
			t.Errorf("got %v", got)
		}
		b.end()
	})
}
