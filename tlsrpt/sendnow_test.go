package tlsrpt_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/tlsrpt"
)

func TestSendNow(t *testing.T) {
	inBubble(t, "what is tallied up to now is sent at once, today included; later sessions make another report", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/a,mailto:m@a.example")
		b.start()
		b.count("a.example", 2)
		go func() { // the queue delivers
			time.Sleep(3 * time.Second)
			entries, err := b.store.Claim(t.Context(), "a.example", 10)
			if err == nil {
				_, err = b.store.Settle(t.Context(), []relay.Result{{ID: entries[0].ID, Lease: entries[0].Lease, Tried: true}})
			}
			if err != nil {
				t.Error(err)
			}
		}()
		jobs, err := b.sender.SendNow(t.Context(), tlsrpt.Request{})
		if err != nil || len(jobs) != 1 || jobs[0].State != tlsrpt.Sent || jobs[0].Parts[0].State != tlsrpt.Sent || jobs[0].Parts[1].State != tlsrpt.Sent {
			t.Fatalf("%+v, %v", jobs, err)
		}
		if at := time.Now(); at.Sub(time.Date(2000, 1, 1, 0, 0, 3, 0, time.UTC)) > time.Second {
			t.Errorf("it took until %v", at)
		}
		b.publish("a.example", "https://r.example/a")
		b.count("a.example", 3)
		time.Sleep(day + 5*time.Hour)
		synctest.Wait()
		got := b.received("r.example")
		if len(got) != 2 || got[0].Report.ID == got[1].Report.ID || got[0].Report.Policies[0].Summary.Good != 2 || got[1].Report.Policies[0].Summary.Good != 3 || got[1].Report.day() != "2000-01-01" {
			t.Errorf("%+v", got)
		}
		if jobs, err := b.sender.SendNow(t.Context(), tlsrpt.Request{}); err != nil || len(jobs) != 0 {
			t.Errorf("with nothing left: %+v, %v", jobs, err)
		}
		b.end()
	})
	inBubble(t, "what fails is told after one attempt, and tried on; what waits is hurried", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/a")
		b.endpoint("r.example", answers(500, 500, 200))
		b.start()
		b.count("a.example", 2)
		for want := 1; want <= 2; want++ {
			jobs, err := b.sender.SendNow(t.Context(), tlsrpt.Request{Day: "2000-01-01"})
			if err != nil || len(jobs) != 1 || jobs[0].State != tlsrpt.Pending || jobs[0].Parts[0].Tries != want || !strings.Contains(jobs[0].Parts[0].Why, "500") {
				t.Fatalf("%+v, %v", jobs, err)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if b.one().State != tlsrpt.Sent {
			t.Errorf("%+v", b.one())
		}
		b.end()
	})
	to, err := tlsrpt.ParseRUA("https://test.example/x")
	if err != nil {
		t.Fatal(err)
	}
	inBubble(t, "a test goes elsewhere and leaves the domain its report", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/a")
		b.start()
		b.count("a.example", 2)
		b.count("b.example", 2)
		jobs, err := b.sender.SendNow(t.Context(), tlsrpt.Request{Domain: addr.MustDomain("a.example"), To: []tlsrpt.RUA{to}})
		if err != nil || len(jobs) != 1 || jobs[0].State != tlsrpt.Sent || len(b.received("test.example")) != 1 || len(b.received("")) != 1 {
			t.Fatalf("%+v, %v", jobs, err)
		}
		time.Sleep(day + 5*time.Hour)
		synctest.Wait()
		if got := b.received("r.example"); len(got) != 1 || got[0].Report.Policies[0].Summary.Good != 2 {
			t.Errorf("%+v", got)
		}
		b.end()
	})
	inBubble(t, "a domain that wants none, and DNS that fails, are told", nil, func(t *testing.T, b *bubble) {
		b.fail("_smtp._tls.b.example", servfail)
		b.start()
		b.count("a.example", 1)
		b.count("b.example", 1)
		jobs, err := b.sender.SendNow(t.Context(), tlsrpt.Request{})
		if err != nil || len(jobs) != 2 || jobs[0].State != tlsrpt.Unwanted || jobs[1].State != tlsrpt.Pending || !strings.Contains(jobs[1].Why, "SERVFAIL") {
			t.Errorf("%+v, %v", jobs, err)
		}
		b.end()
	})
}

func TestStatus(t *testing.T) {
	inBubble(t, "Snapshot, List and Show tell what there is", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/a,mailto:m@a.example")
		b.start()
		b.count("a.example", 2, tlsrpt.TLSAInvalid)
		b.count("b.example", 1)
		time.Sleep(day + 5*time.Hour)
		b.count("a.example", 1)
		synctest.Wait()
		st, err := b.sender.Snapshot(t.Context())
		if err != nil || st.Idle != "" || st.LastRun.IsZero() || st.Reports[tlsrpt.Queued] != 1 || st.Reports[tlsrpt.Unwanted] != 1 ||
			st.Parts[tlsrpt.ByHTTPS][tlsrpt.Sent] != 1 || st.Parts[tlsrpt.ByMail][tlsrpt.Queued] != 1 {
			t.Errorf("%+v, %v", st, err)
		}
		list, err := b.sender.List(t.Context(), "")
		var got []string
		for _, j := range list {
			got = append(got, fmt.Sprintf("%s %s %d %s %d %d", j.Day, j.Domain, j.Number, j.State, j.Sums.Successes, j.Sums.Failures))
		}
		want := []string{"2000-01-01 a.example 1 queued 2 1", "2000-01-01 b.example 1 unwanted 1 0", "2000-01-02 a.example 0 tallied 1 0"}
		if err != nil || !slices.Equal(got, want) || list[2].Due < 19*time.Hour || list[2].Due > 23*time.Hour {
			t.Errorf("%v, %v", got, err)
		}
		shown, err := b.sender.Show(t.Context(), addr.MustDomain("a.example"), "")
		if err != nil || len(shown) != 1 || shown[0].Job.State != tlsrpt.Tallied || shown[0].Report.Sums().Successes != 1 {
			t.Errorf("%+v, %v", shown, err)
		}
		shown, err = b.sender.Show(t.Context(), addr.MustDomain("a.example"), "2000-01-01")
		if err != nil || len(shown) != 1 || shown[0].Report.ID != b.received("r.example")[0].Report.ID {
			t.Errorf("%+v, %v", shown, err)
		}
		time.Sleep(45 * day)
		synctest.Wait()
		if all, err := b.sender.List(t.Context(), ""); err != nil || len(all) != 0 {
			t.Errorf("after 45 days: %+v, %v", all, err)
		}
		b.end()
	})
}
