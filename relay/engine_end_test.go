package relay_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/boltstore"
	"stsrelay/relay"
	"stsrelay/tlsrpt"

	"stsrelay/internal/addr"
)

func TestEngineShutdown(t *testing.T) {
	inBubble(t, "a running attempt may end within the grace time, and is written down", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("slow.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			pass(ctx, 20*time.Second)
			return takes(ctx, j)
		})
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@slow.example"})
		w.send(letter{from: "a@sender.example", to: "b@slow.example"})
		let(time.Second)
		if err := w.end(); err != nil {
			t.Error(err)
		}
		left := w.entries()
		if len(left) != 1 || left[0].Lease != 0 || left[0].Attempts != 0 {
			t.Errorf("left: %+v", left)
		}
		w.bolt.Close()
	})
	inBubble(t, "what does not end in time is given back as if it had not been tried", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("slow.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			<-ctx.Done()
			return outcomes(j, delivery.Outcome{Err: delivery.NewError(delivery.StageRcpt, delivery.LocalError, mx, "delivery was stopped")}), nil
		})
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@slow.example"})
		synctest.Wait()
		began := time.Now()
		if err := w.end(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("the end took %v", took)
		}
		if left := w.entries(); len(left) != 1 || left[0].Lease != 0 || left[0].Attempts != 0 || left[0].Due > 0 {
			t.Errorf("left: %+v", left)
		}
		w.bolt.Close()
	})
	inBubble(t, "an idle engine ends at once", func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		synctest.Wait()
		began := time.Now()
		w.close()
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
	inBubble(t, "a restart goes on where the other ended: what is due now, and later", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("grey.example", says(delivery.StageRcpt, 451, [3]int{4, 7, 1}, "later"))
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@grey.example"})
		synctest.Wait()
		w.close()
		w.engine = nil
		w.open()
		for i := range 2500 { // more than a page of destinations
			w.send(letter{from: "a@sender.example", to: fmt.Sprintf("b@d%d.example", i)})
		}
		w.to("grey.example", takes)
		w.start()
		let(time.Minute)
		if left := w.entries(); len(left) != 1 || left[0].Attempts != 1 {
			t.Fatalf("%d left", len(left))
		}
		let(5 * time.Minute)
		if n := len(w.entries()); n != 0 {
			t.Errorf("%d left", n)
		}
		w.close()
	})
	inBubble(t, "after a restart a destination's back-off goes on where its messages say", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 0))
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		let(2 * time.Hour)
		w.close()
		attempts := 0
		w.engine = nil
		w.open()
		w.start()
		let(3 * time.Hour)
		attempts = w.entries()[0].Attempts
		if s := w.engine.Snapshot().Destinations; len(s) != 1 || s[0].Failures != attempts || attempts < 5 {
			t.Errorf("%d attempts, %+v", attempts, s)
		}
		w.close()
	})
}

func TestEngineStoreFaults(t *testing.T) {
	faulty := func(t *testing.T) (*world, *faultyStore) {
		f := &faultyStore{}
		w := newWorld(t, nil)
		f.Store, w.Store = w.Store, f
		return w, f
	}
	inBubble(t, "outcomes wait until the store can write, and nothing is tried meanwhile", func(t *testing.T) {
		w, f := faulty(t)
		w.start()
		f.set(func() { f.notDone = true })
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		let(time.Second)
		before := f.claims // the line may have looked for more while the first outcome was being written
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		w.send(letter{from: "a@sender.example", to: "b@other.example"})
		let(time.Minute)
		if n, m := len(w.tried("good.example")), len(w.tried("other.example")); n != 1 || m != 0 || f.claims != before {
			t.Errorf("%d and %d tried, %d claims, then %d", n, m, before, f.claims)
		}
		if s := w.engine.Snapshot(); s.Unwritten != 1 {
			t.Errorf("%d unwritten", s.Unwritten)
		}
		f.set(func() { f.notDone = false })
		let(time.Minute)
		if n := len(w.tried("good.example")); n != 2 || len(w.entries()) != 0 {
			t.Errorf("%d attempts, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "DSNF-3-01 a write of unknown outcome is repeated and applied once: there is one DSN", func(t *testing.T) {
		w, f := faulty(t)
		w.to("bad.example", says(delivery.StageRcpt, 550, [3]int{5, 1, 1}, "no"))
		w.start()
		f.set(func() { f.doneOnce = true })
		w.send(letter{from: "a@sender.example", to: "b@bad.example"})
		let(time.Minute)
		if n := len(w.tried("sender.example")); n != 1 || len(w.entries()) != 0 || w.log.has("somebody else") {
			t.Errorf("%d DSNs, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "an outcome that the store refuses spoils no other, and loses no message", func(t *testing.T) {
		w, f := faulty(t)
		w.to("bad.example", says(delivery.StageRcpt, 550, [3]int{5, 1, 1}, "no"))
		for range 20 {
			w.send(letter{from: "a@sender.example", to: "b@bad.example"})
		}
		f.set(func() { f.spoiled = "M000007" })
		w.start()
		let(time.Second)
		if left := w.entries(); len(left) != 1 || left[0].ID != "M000007" || left[0].Due <= 0 || len(w.tried("sender.example")) != 19 {
			t.Errorf("left: %+v", left)
		}
		w.close()
	})
	inBubble(t, "the end says which outcomes could not be written", func(t *testing.T) {
		w, f := faulty(t)
		w.start()
		f.set(func() { f.notDone = true })
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		synctest.Wait()
		if err := w.end(); err == nil {
			t.Error("no error")
		}
		w.bolt.Close()
	})
	inBubble(t, "what finishes while another is written shares a commit, a lone one does not wait", func(t *testing.T) {
		w, f := faulty(t)
		for range 500 {
			w.send(letter{from: "a@sender.example", to: "b@good.example"})
		}
		w.start()
		synctest.Wait()
		began := time.Now()
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		synctest.Wait()
		if len(w.entries()) != 0 || time.Since(began) != 0 || f.commits() > 400 {
			t.Errorf("%d commits, %d left, after %v", f.commits(), len(w.entries()), time.Since(began))
		}
		w.close()
	})
	inBubble(t, "a message that was deleted while it was tried is left alone", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("slow.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			pass(ctx, time.Minute)
			return says(delivery.StageRcpt, 550, [3]int{5, 1, 1}, "no")(ctx, j)
		})
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@slow.example"})
		let(time.Second)
		if _, err := w.Edit(t.Context(), relay.Filter{}, relay.Action{Verb: relay.VerbDelete}); err != nil {
			t.Fatal(err)
		}
		let(2 * time.Minute)
		if n := len(w.tried("sender.example")); n != 0 || len(w.entries()) != 0 || !w.log.has("somebody else has this message") {
			t.Errorf("%d DSNs of a deleted message, %d left", n, len(w.entries()))
		}
		w.close()
	})
}

func TestEngineGivesUp(t *testing.T) {
	inBubble(t, "STS-5-05 STS-5.1-03 a refusal by policy is temporary until the lifetime ends, then a DSN with the 5.x code", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.WarnAfter = 30 * 24 * time.Hour })
		w.to("strict.example", fails(refused(delivery.CertExpired), 0))
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@strict.example"})
		let(5*24*time.Hour - time.Minute)
		if n := len(w.tried("sender.example")); n != 0 || len(w.entries()) != 1 {
			t.Fatalf("%d DSNs before the lifetime has ended, %d left", n, len(w.entries()))
		}
		let(10 * time.Minute)
		if n := len(w.tried("sender.example")); n != 1 || len(w.entries()) != 0 {
			t.Fatalf("%d DSNs, %d left", n, len(w.entries()))
		}
		if n := len(w.log.lines(t, map[string]any{"status": "bounced", "dsn": "5.7.5", "expired": true})); n != 1 {
			t.Errorf("%d lines with the code", n)
		}
		w.close()
	})
	inBubble(t, "STS-5-04 no message is given up without an attempt that looked for a newer policy", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("strict.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			if j.Final {
				return takes(ctx, j) // there is one
			}
			return fails(refused(delivery.MXNotListed), 0)(ctx, j)
		})
		w.start()
		w.send(letter{from: "", to: "b@strict.example", options: relay.Options{Expire: time.Minute}})
		let(10 * time.Minute)
		jobs := w.tried("strict.example")
		if n := len(jobs); n != 2 || jobs[0].Final || !jobs[1].Final || len(w.entries()) != 0 {
			t.Errorf("%d attempts, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "STS-5-04 many that are given up share one attempt that looked for a newer policy", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.WarnAfter = time.Hour })
		w.to("strict.example", fails(refused(delivery.MXNotListed), 0))
		w.start()
		for range 250 {
			w.send(letter{from: "", to: "b@strict.example", options: relay.Options{Expire: 30 * time.Minute}})
		}
		let(25 * time.Minute)
		before := len(w.tried("strict.example"))
		let(30 * time.Minute)
		after := w.tried("strict.example")
		if n := len(after) - before; len(w.entries()) != 0 || n < 1 || n > 2 || !after[len(after)-1].Final {
			t.Errorf("%d attempts more, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "ESC-DEL-01 what has no twin keeps its last code when it is given up", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 0))
		w.start()
		w.send(letter{from: "", to: "b@dead.example", options: relay.Options{Expire: time.Hour}})
		let(2 * time.Hour)
		if n := len(w.log.lines(t, map[string]any{"status": "bounced", "dsn": "4.4.1", "expired": true, "reason": "connect-failed"})); n != 1 || len(w.entries()) != 0 {
			t.Errorf("%d lines, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "after a long stop nothing expires without an attempt", func(t *testing.T) {
		w := newWorld(t, nil)
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		let(10 * 24 * time.Hour)
		w.start()
		let(time.Second)
		if n := len(w.tried("sender.example")); n != 0 || len(w.entries()) != 0 || !w.tried("good.example")[0].Final {
			t.Errorf("%d DSNs, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "SMTP-3.6.3-01 an operator's bounce is returned without an attempt, with the reason", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("grey.example", says(delivery.StageRcpt, 451, [3]int{4, 7, 1}, "later"))
		dsn := make(chan string, 1)
		w.to("sender.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			dsn <- read(t, j)
			return takes(ctx, j)
		})
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@grey.example"})
		let(time.Minute)
		done, err := w.Edit(t.Context(), relay.Filter{}, relay.Action{Verb: relay.VerbBounce, Reason: "ticket 4711"})
		if err != nil {
			t.Fatal(err)
		}
		w.engine.Wake(done.Destinations...)
		synctest.Wait()
		if n := len(w.tried("grey.example")); n != 1 || len(w.entries()) != 0 {
			t.Fatalf("%d attempts, %d left", n, len(w.entries()))
		}
		if text := <-dsn; !contains(text, "ticket 4711", "Status: 5.7.0") {
			t.Errorf("DSN:\n%s", text)
		}
		w.close()
	})
}

func TestEngineSessions(t *testing.T) {
	session := tlsrpt.Session{Start: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC), Domain: addr.MustDomain("good.example"),
		Policies: []tlsrpt.PolicyResult{{Policy: tlsrpt.Policy{Type: tlsrpt.STS, Domain: "good.example"}}}}
	count := func(t *testing.T, change func(*relay.EngineOptions)) (n int64) {
		w := newWorld(t, change)
		w.to("good.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			a, _ := takes(ctx, j)
			a.Sessions = []tlsrpt.Session{session}
			return a, nil
		})
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		w.send(letter{from: "a@sender.example", to: "b@good.example", options: relay.Options{Report: true}})
		synctest.Wait()
		for tally, err := range w.bolt.Tallies(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			n += tally.Policies[0].Successes
		}
		w.close()
		return n
	}
	inBubble(t, "the sessions of an attempt are counted with its outcome, those of a report are not", func(t *testing.T) {
		if n := count(t, nil); n != 1 {
			t.Errorf("%d sessions counted", n)
		}
	})
	inBubble(t, "without reports no session is counted", func(t *testing.T) {
		if n := count(t, func(o *relay.EngineOptions) { o.NoTallies = true }); n != 0 {
			t.Errorf("%d sessions counted", n)
		}
	})
}

var _ relay.Store = (*boltstore.Store)(nil)
