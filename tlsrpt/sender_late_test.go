package tlsrpt_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/tlsrpt"
)

func TestRestart(t *testing.T) {
	inBubble(t, "RPT-4.1-03 a restart while a report is being sent sends it again under the same ID, and after it was taken not at all", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/v1,mailto:m@a.example")
		begun, release := make(chan struct{}, 10), make(chan struct{})
		b.endpoint("r.example", func(n int) tlsrpt.Answer {
			if n > 1 {
				return tlsrpt.Answer{Status: 200}
			}
			begun <- struct{}{}
			<-release
			return tlsrpt.Answer{Err: errors.New("the process is ending")}
		})
		b.start()
		b.count("a.example", 1)
		<-begun
		b.stop()
		close(release)
		b.restart()
		time.Sleep(time.Minute)
		synctest.Wait()
		for range 3 {
			b.restart()
			time.Sleep(6 * time.Hour)
			synctest.Wait()
		}
		got := b.received("r.example")
		if len(got) != 2 || got[0].Report.ID != got[1].Report.ID {
			t.Errorf("posts %+v", got)
		}
		if mail := b.queue(); len(mail) != 1 || b.one().State != tlsrpt.Queued {
			t.Errorf("%d mails, %+v", len(mail), b.one())
		}
		b.end()
	})
	inBubble(t, "RPT-4.1-03 an answer that came while we were told to stop is written down", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/v1")
		b.endpoint("r.example", func(int) tlsrpt.Answer {
			b.stop()
			return tlsrpt.Answer{Status: 200}
		})
		b.start()
		b.count("a.example", 1)
		time.Sleep(day + 5*time.Hour)
		b.restart()
		time.Sleep(2 * day)
		synctest.Wait()
		if got := b.received("r.example"); len(got) != 1 || b.one().State != tlsrpt.Sent {
			t.Errorf("%d posts, %+v", len(got), b.one())
		}
		b.end()
	})
	inBubble(t, "RPT-4.1-03 counters survive a restart, and a day that ended while we were down is reported", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/v1")
		b.start()
		b.count("a.example", 2)
		time.Sleep(12 * time.Hour)
		b.restart()
		b.count("a.example", 3)
		time.Sleep(time.Hour)
		b.end()
		time.Sleep(2 * day)
		b.open()
		b.o.Store = b.store
		b.start()
		time.Sleep(4*time.Hour + time.Second)
		synctest.Wait()
		if got := b.received("r.example"); len(got) != 1 || got[0].Report.day() != "2000-01-01" || got[0].Report.Policies[0].Summary.Good != 5 {
			t.Errorf("%+v", got)
		}
		b.end()
	})
}

func TestLate(t *testing.T) {
	inBubble(t, "RPT-5.5-01 what was tried, and then lay still for more than a day, is given up without another attempt", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/v1")
		b.publish("b.example", "https://r.example/v1")
		b.endpoint("r.example", answers(500))
		b.fail("_smtp._tls.b.example", servfail)
		b.start()
		b.count("a.example", 1)
		b.count("b.example", 1)
		time.Sleep(day + 4*time.Hour + time.Second)
		synctest.Wait()
		n := len(b.received("r.example"))
		b.end()
		time.Sleep(2 * day)
		b.open()
		b.o.Store = b.store
		b.fail("_smtp._tls.b.example", nil)
		b.start()
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, j := range b.jobs() {
			if j.State != tlsrpt.GivenUp {
				t.Errorf("%+v", j)
			}
		}
		if got := len(b.received("r.example")); got != n || n == 0 {
			t.Errorf("%d attempts, then %d", n, got)
		}
		b.end()
	})
	inBubble(t, "RPT-4.1-03 sessions that come after their day's report get another one, of that day, within hours", nil, func(t *testing.T, b *bubble) {
		b.publish("a.example", "https://r.example/v1")
		b.start()
		late := sessionOf("a.example")
		b.count("a.example", 1)
		time.Sleep(day + 4*time.Hour + time.Second)
		if err := b.store.Add(t.Context(), []tlsrpt.Session{late}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5*time.Hour + time.Second)
		synctest.Wait()
		got := b.received("r.example")
		if len(got) != 2 || got[1].Report.day() != "2000-01-01" || got[1].Report.ID == got[0].Report.ID || got[1].Report.Policies[0].Summary.Good != 1 {
			t.Errorf("%+v", got)
		}
		b.end()
	})
}

func TestLookAgain(t *testing.T) {
	for _, c := range []struct {
		name, later string
		err         error
		state       tlsrpt.State
		posts       []int // to wrong.example and to right.example
	}{
		{"RPT-3-13 a record that was corrected while the report could not be sent", "https://right.example/", nil, tlsrpt.Sent, []int{3, 1}},
		{"RPT-8-02 a record that was withdrawn", "", nil, tlsrpt.Failed, []int{3, 0}},
		{"RPT-3-13 DNS that fails for now changes nothing", "https://right.example/", servfail, tlsrpt.GivenUp, []int{8, 0}},
	} {
		inBubble(t, c.name, nil, func(t *testing.T, b *bubble) {
			b.publish("a.example", "https://wrong.example/")
			b.endpoint("wrong.example", answers(503))
			b.start()
			b.count("a.example", 2)
			for len(b.received("wrong.example")) == 0 {
				time.Sleep(time.Minute)
			}
			b.publish("a.example", c.later)
			b.fail("_smtp._tls.a.example", c.err)
			time.Sleep(2 * day)
			synctest.Wait()
			if got := []int{len(b.received("wrong.example")), len(b.received("right.example"))}; !slices.Equal(got, c.posts) || b.one().State != c.state {
				t.Errorf("%v posts, %+v", got, b.one())
			}
			b.end()
		})
	}
}
