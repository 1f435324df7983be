package relay_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/delivery"
	"stsrelay/relay"
)

func TestEngineBackOff(t *testing.T) {
	inBubble(t, "SMTP-4.5.4.1-04 SMTP-4.5.4.1-01 a thousand messages to a dead host cost one connection each time", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 5*time.Second))
		for range 1000 {
			w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		}
		w.start()
		// 5, 15, 30 minutes, 1, 2, 4 and 4 hours, each up to a tenth longer
		for i, span := range []time.Duration{0, 5, 15, 30, 60, 120, 240, 240} {
			let(span*time.Minute + span*6*time.Second + 10*time.Second)
			if n := w.connections("dead.example"); n != i+1 {
				t.Fatalf("%d connections after %d rounds", n, i+1)
			}
		}
		left := w.entries()
		if len(left) != 1000 {
			t.Fatalf("%d left", len(left))
		}
		for _, e := range left {
			if e.Attempts != 8 || len(e.History) != 8 || e.To[0].Last.Reason != delivery.ConnectFailed {
				t.Fatalf("not every message knows of the attempts: %+v", e)
			}
		}
		s := w.engine.Snapshot().Destinations
		if len(s) != 1 || s[0].Failures != 8 || s[0].Reason != delivery.ConnectFailed || s[0].Active != 0 || time.Until(s[0].Next) < 3*time.Hour {
			t.Errorf("%+v", s)
		}
		w.close()
	})
	inBubble(t, "a dead host that takes long to fail costs a bounded number of connections", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 2*time.Minute))
		for range 1000 {
			w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		}
		w.start()
		let(4 * time.Minute)
		if n := w.connections("dead.example"); n > 10 {
			t.Errorf("%d connections, the limit is 10", n)
		}
		if s := w.engine.Snapshot().Destinations; len(s) != 1 || s[0].Failures != 1 {
			t.Errorf("failures of connections made at once count once: %+v", s)
		}
		w.close()
	})
	inBubble(t, "one canary is tried for all, and the rest follows its success", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("dead.example", fails(refused(delivery.TimedOut), time.Second))
		for range 300 {
			w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		}
		w.start()
		let(time.Minute)
		var now, early atomic.Int64
		arrived := make(chan struct{})
		w.to("dead.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			if now.Add(1) == 1 {
				pass(ctx, time.Minute)
				close(arrived)
			}
			select {
			case <-arrived:
			default:
				early.Add(1)
			}
			return takes(ctx, j)
		})
		let(8 * time.Minute)
		if left := len(w.entries()); early.Load() != 0 || left != 0 {
			t.Errorf("%d went before the canary had arrived, %d left", early.Load(), left)
		}
		if s := w.engine.Snapshot(); len(s.Destinations) != 0 {
			t.Errorf("still backs off: %+v", s.Destinations)
		}
		w.close()
	})
	inBubble(t, "new mail for a destination in back-off waits for the canary, and says why", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 0))
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		let(time.Minute)
		w.to("dead.example", takes)
		id := w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		let(time.Minute)
		if n := w.connections("dead.example"); n != 1 {
			t.Fatalf("%d connections", n)
		}
		i := slices.IndexFunc(w.entries(), func(e relay.Entry) bool { return e.ID == id })
		if e := w.entries()[i]; e.Attempts != 0 || e.To[0].Last == nil || e.To[0].Last.Reason != delivery.ConnectFailed || e.Due < 2*time.Minute {
			t.Errorf("%+v", e)
		}
		if n := len(w.log.lines(t, map[string]any{"queue_id": string(id), "status": "deferred", "attempt": 0.0})); n != 1 {
			t.Errorf("%d lines say why it waits", n)
		}
		let(4 * time.Minute)
		if n := len(w.entries()); n != 0 {
			t.Errorf("%d left behind the canary", n)
		}
		w.close()
	})
	inBubble(t, "much new mail for a destination in back-off is told why it waits in few commits", func(t *testing.T) {
		f := &faultyStore{}
		w := newWorld(t, nil)
		f.Store, w.Store = w.Store, f
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 0))
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		let(time.Second)
		before := f.commits()
		for range 1000 {
			w.send(letter{from: "a@sender.example", to: "b@dead.example"})
			let(10 * time.Millisecond)
		}
		let(time.Minute)
		if n := f.commits() - before; n < 5 || n > 50 || len(w.tried("dead.example")) != 1 {
			t.Errorf("%d commits for messages of ten seconds, %d attempts", n, len(w.tried("dead.example")))
		}
		w.close()
	})
	inBubble(t, "a domain that does not exist returns everything with one lookup, and backs off from nothing", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("nowhere.example", fails(refused(delivery.NoSuchDomain), 0))
		for range 250 {
			w.send(letter{from: "a@sender.example", to: "b@nowhere.example"})
		}
		w.start()
		let(time.Second)
		if n := len(w.tried("nowhere.example")); n != 1 || len(w.entries()) != 0 || len(w.tried("sender.example")) != 250 {
			t.Errorf("%d attempts, %d left, %d DSNs", n, len(w.entries()), len(w.tried("sender.example")))
		}
		w.to("nowhere.example", takes)
		w.send(letter{from: "a@sender.example", to: "b@nowhere.example"})
		let(time.Second)
		if n := len(w.entries()); n != 0 {
			t.Errorf("new mail waits: %d", n)
		}
		w.close()
	})
	inBubble(t, "an error that Deliver invents is a failure of the destination", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.Deliverer = brokenDeliverer{} })
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		let(time.Minute)
		if left := w.entries(); len(left) != 1 || left[0].Lease != 0 {
			t.Errorf("%+v", left)
		}
		w.close()
	})
	inBubble(t, "a destination that fails for all it was given is dead, though nobody says so", func(t *testing.T) {
		w := newWorld(t, nil)
		dead := fails(refused(delivery.ConnectFailed), 0)
		w.to("dead.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			a, _ := dead(ctx, j)
			return a, nil
		})
		for range 50 {
			w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		}
		w.start()
		let(time.Minute)
		if n := len(w.tried("dead.example")); n != 1 {
			t.Errorf("%d attempts", n)
		}
		w.close()
	})
	inBubble(t, "a Deliverer that does nothing is not asked without end", func(t *testing.T) {
		w := newWorld(t, nil)
		var calls atomic.Int64
		w.o.Deliverer = deliverFunc(func(context.Context, delivery.Destination, delivery.Source) error {
			calls.Add(1)
			return nil
		})
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		let(time.Minute)
		if left := w.entries(); len(left) != 1 || left[0].Lease != 0 || calls.Load() < 2 || calls.Load() > 20 {
			t.Errorf("%d calls, left %+v", calls.Load(), left)
		}
		w.close()
	})
	inBubble(t, "a destination without mail is forgotten when its back-off is over", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("strict.example", fails(refused(delivery.MXNotListed), 0))
		w.send(letter{from: "", to: "b@strict.example", options: relay.Options{Expire: 1}})
		let(time.Second)
		w.start()
		let(time.Minute)
		if s := w.engine.Snapshot().Destinations; len(s) != 1 || len(w.entries()) != 0 {
			t.Fatalf("%+v, %d left", s, len(w.entries()))
		}
		let(10 * time.Minute)
		if s := w.engine.Snapshot().Destinations; len(s) != 0 {
			t.Errorf("%+v", s)
		}
		w.close()
		if len(w.waiting) != 2 {
			t.Errorf("heard %v", w.waiting)
		}
	})
}

type brokenDeliverer struct{}

func (brokenDeliverer) Deliver(context.Context, delivery.Destination, delivery.Source) error {
	return errDisk
}

func TestEngineFairness(t *testing.T) {
	inBubble(t, "a hundred dead and slow domains do not delay a good one", func(t *testing.T) {
		w := newWorld(t, nil)
		for i := range 100 {
			dead := fmt.Sprintf("dead%d.example", i)
			w.to(dead, fails(refused(delivery.ConnectFailed), 5*time.Minute))
			for range 20 {
				w.send(letter{from: "a@sender.example", to: "b@" + dead})
			}
		}
		w.start()
		let(time.Second)
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		synctest.Wait()
		if n := len(w.tried("good.example")); n != 1 {
			t.Errorf("%d attempts", n)
		}
		let(6 * time.Minute)
		w.close()
	})
	inBubble(t, "dead domains whose back-off has ended leave half of the places", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.MaxActive = 10 })
		for i := range 50 {
			dead := fmt.Sprintf("dead%d.example", i)
			w.to(dead, fails(refused(delivery.ConnectFailed), 0))
			w.send(letter{from: "a@sender.example", to: "b@" + dead})
		}
		w.start()
		let(time.Minute)
		for i := range 50 {
			w.to(fmt.Sprintf("dead%d.example", i), fails(refused(delivery.ConnectFailed), time.Hour))
		}
		let(5 * time.Minute)
		if s := w.engine.Snapshot(); s.Active != 5 || s.Queued != 45 {
			t.Errorf("%d active, %d wait", s.Active, s.Queued)
		}
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		synctest.Wait()
		if n := len(w.tried("good.example")); n != 1 {
			t.Errorf("the good one waits behind the dead: %d attempts", n)
		}
		w.close()
	})
	inBubble(t, "a destination that never runs dry makes place for those that wait", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.MaxActive, o.Lanes = 1, 1 })
		w.to("large.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			pass(ctx, 100*time.Millisecond)
			return takes(ctx, j)
		})
		for range 1000 {
			w.send(letter{from: "a@sender.example", to: "b@large.example"})
		}
		w.start()
		let(time.Second)
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		let(30 * time.Second)
		if n := len(w.tried("good.example")); n != 1 {
			t.Errorf("%d attempts", n)
		}
		let(2 * time.Minute)
		if n := len(w.entries()); n != 0 {
			t.Errorf("%d left", n)
		}
		w.close()
	})
}
