package relay_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/relay"
)

func TestEngineRetry(t *testing.T) {
	policy := func(w *world) {
		w.to("strict.example", fails(refused(delivery.MXNotListed), 0))
		for range 150 {
			w.send(letter{from: "a@sender.example", to: "b@strict.example"})
		}
		w.start()
		let(time.Minute)
	}
	inBubble(t, "a changed policy sends the canary at once and the rest behind its success", func(t *testing.T) {
		w := newWorld(t, nil)
		policy(w)
		w.to("strict.example", takes)
		w.engine.Retry("strict.example")
		let(10 * time.Second)
		if n := len(w.entries()); n != 0 || len(w.tried("strict.example")) != 151 {
			t.Errorf("%d left, %d attempts", n, len(w.tried("strict.example")))
		}
		w.close()
	})
	inBubble(t, "a policy that still refuses costs one attempt, once", func(t *testing.T) {
		w := newWorld(t, nil)
		policy(w)
		let(30 * time.Minute)
		before := len(w.tried("strict.example"))
		w.engine.Retry("strict.example")
		let(4 * time.Minute)
		if n := len(w.tried("strict.example")) - before; n != 1 {
			t.Errorf("%d attempts", n)
		}
		if s := w.engine.Snapshot().Destinations; len(s) != 1 || s[0].Failures != 1 {
			t.Errorf("the back-off is not forgotten: %+v", s)
		}
		if left := w.entries(); len(left) != 150 {
			t.Errorf("%d left", len(left))
		}
		w.close()
	})
	inBubble(t, "SMTP-4.5.4.1-01 a canary that is greylisted is not tried again at once, though the others go", func(t *testing.T) {
		w := newWorld(t, nil)
		policy(w)
		var n atomic.Int64
		w.to("strict.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			if n.Add(1) == 1 {
				return says(delivery.StageRcpt, 451, [3]int{4, 7, 1}, "later")(ctx, j)
			}
			return takes(ctx, j)
		})
		w.engine.Retry("strict.example")
		let(10 * time.Second)
		if left := w.entries(); len(left) != 1 || left[0].Due < 4*time.Minute || n.Load() != 150 {
			t.Errorf("%d attempts, %d left", n.Load(), len(left))
		}
		w.close()
	})
	inBubble(t, "an operator's retry forgets the back-off", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 0))
		for range 20 {
			w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		}
		w.start()
		let(time.Hour)
		before := w.connections("dead.example")
		w.to("dead.example", takes)
		done, err := w.Edit(t.Context(), relay.Filter{}, relay.Action{Verb: relay.VerbRetry})
		if err != nil {
			t.Fatal(err)
		}
		w.engine.Retry(done.Destinations...)
		let(time.Second)
		if n := len(w.entries()); n != 0 || w.connections("dead.example") != before+1 {
			t.Errorf("%d left, %d connections", n, w.connections("dead.example")-before)
		}
		w.close()
	})
	inBubble(t, "who follows policies hears whose mail waits for one, and when it no longer does", func(t *testing.T) {
		w := newWorld(t, nil)
		policy(w)
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 0))
		w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		let(time.Minute)
		w.to("strict.example", takes)
		let(10 * time.Minute)
		w.close()
		if want := []string{"strict.example true", "strict.example false"}; !slices.Equal(w.waiting, want) {
			t.Errorf("heard %v, want %v", w.waiting, want)
		}
	})
	inBubble(t, "nobody waits for a policy any more when the mail is deleted", func(t *testing.T) {
		w := newWorld(t, nil)
		policy(w)
		if _, err := w.Edit(t.Context(), relay.Filter{}, relay.Action{Verb: relay.VerbDelete}); err != nil {
			t.Fatal(err)
		}
		let(10 * time.Minute)
		if s := w.engine.Snapshot(); len(s.Destinations) != 0 || len(w.waiting) != 2 {
			t.Errorf("%+v, heard %v", s.Destinations, w.waiting)
		}
		w.close()
	})
}

func TestEngineWeights(t *testing.T) {
	strict := func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
		if j.Demand == delivery.Ignore {
			return takes(ctx, j)
		}
		return fails(refused(delivery.CertExpired), 0)(ctx, j)
	}
	inBubble(t, "a report is delivered while a policy makes other mail wait", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("strict.example", strict)
		w.start()
		for range 30 {
			w.send(letter{from: "a@sender.example", to: "b@strict.example"})
		}
		let(time.Second)
		id := w.send(letter{from: "r@sender.example", to: "b@strict.example", options: relay.Options{Demand: delivery.Ignore}})
		w.send(letter{from: "a@sender.example", to: "b@strict.example"})
		let(time.Second)
		if n := len(w.entries()); n != 31 {
			t.Errorf("%d left", n)
		}
		if n := len(w.log.lines(t, map[string]any{"queue_id": string(id), "status": "sent"})); n != 1 {
			t.Errorf("the report was sent %d times", n)
		}
		if s := w.engine.Snapshot(); len(s.Destinations) != 1 || s.Destinations[0].Failures != 1 {
			t.Errorf("a report's success is no canary's: %+v", s.Destinations)
		}
		if n := w.connections("strict.example"); n != 2 {
			t.Errorf("%d connections", n)
		}
		w.close()
	})
	odd := func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
		if j.Demand != delivery.Require {
			return takes(ctx, j)
		}
		a, _ := fails(refused(delivery.ConnectFailed), 0)(ctx, j)
		return a, nil // as delivery does: it says nothing of others
	}
	sendTo := func(w *world, demand delivery.Demand, n int) {
		for range n {
			w.send(letter{from: "a@sender.example", to: "b@odd.example", options: relay.Options{Demand: demand}})
		}
	}
	heavy := func(w *world) (n int) {
		for _, j := range w.tried("odd.example") {
			if j.Demand == delivery.Require {
				n++
			}
		}
		return n
	}
	inBubble(t, "messages with REQUIRETLS that cannot connect fail alone, and cost one connection", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("odd.example", odd)
		sendTo(w, delivery.Require, 50)
		w.start()
		let(time.Second)
		if n := heavy(w); n != 1 {
			t.Errorf("%d attempts", n)
		}
		sendTo(w, delivery.Default, 1)
		let(time.Second)
		if n := len(w.entries()); n != 50 {
			t.Errorf("%d left, want those with REQUIRETLS", n)
		}
		w.close()
	})
	inBubble(t, "between messages that are taken, those with REQUIRETLS cost one connection too", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("odd.example", odd)
		for range 20 {
			sendTo(w, delivery.Default, 1)
			sendTo(w, delivery.Require, 1)
		}
		w.start()
		let(time.Second)
		if n := heavy(w); n != 1 || len(w.entries()) != 20 {
			t.Errorf("%d attempts, %d left", n, len(w.entries()))
		}
		let(6 * time.Minute)
		sendTo(w, delivery.Default, 1)
		let(time.Second)
		if n := heavy(w); n != 2 || len(w.entries()) != 20 {
			t.Errorf("%d attempts, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "a host that is dead for all has a canary that asks little, and its back-off grows", func(t *testing.T) {
		w := newWorld(t, nil)
		dead := fails(refused(delivery.ConnectFailed), 0)
		w.to("odd.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			a, err := dead(ctx, j)
			if j.Demand == delivery.Require {
				return a, nil
			}
			return a, err
		})
		sendTo(w, delivery.Require, 20)
		sendTo(w, delivery.Default, 20)
		w.start()
		let(2*time.Hour + 5*time.Minute) // 5m, 15m, 30m and 1h, with jitter
		if s := w.engine.Snapshot().Destinations; len(s) != 1 || s[0].Failures != 5 || len(w.tried("odd.example")) > 6 {
			t.Errorf("%+v, %d attempts", s, len(w.tried("odd.example")))
		}
		w.to("odd.example", odd)
		let(2*time.Hour + 30*time.Minute)
		if n := len(w.entries()); n != 20 {
			t.Errorf("%d left, want those with REQUIRETLS", n)
		}
		w.close()
	})
	inBubble(t, "a canary with REQUIRETLS that cannot connect does not free the others", func(t *testing.T) {
		w := newWorld(t, nil)
		dead := fails(refused(delivery.ConnectFailed), 0)
		w.to("odd.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			a, err := dead(ctx, j)
			if j.Demand == delivery.Require {
				return a, nil
			}
			return a, err
		})
		sendTo(w, delivery.Default, 1)
		w.start()
		let(time.Second)
		sendTo(w, delivery.Require, 1)
		let(time.Minute)
		if _, err := w.Edit(t.Context(), relay.Filter{IDs: []relay.ID{"M000001"}}, relay.Action{Verb: relay.VerbDelete}); err != nil {
			t.Fatal(err)
		}
		let(5 * time.Minute)
		sendTo(w, delivery.Default, 1)
		let(time.Minute)
		if n, m := len(w.tried("odd.example")), heavy(w); n != 2 || m != 1 {
			t.Errorf("%d attempts, %d with REQUIRETLS", n, m)
		}
		w.close()
	})
	inBubble(t, "a failure of all begins its back-off anew behind one of few", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("odd.example", odd)
		sendTo(w, delivery.Require, 1)
		w.start()
		let(5 * time.Hour)
		w.to("odd.example", fails(refused(delivery.ConnectFailed), 0))
		sendTo(w, delivery.Default, 1)
		let(time.Minute)
		if s := w.engine.Snapshot().Destinations; len(s) != 1 || s[0].Failures != 1 || time.Until(s[0].Next) > 5*time.Minute {
			t.Errorf("%+v", s)
		}
		w.close()
	})
	inBubble(t, "nothing else goes out with the canary, even where several share a flight", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("odd.example", fails(refused(delivery.ConnectFailed), 0))
		sendTo(w, delivery.Default, 20)
		w.start()
		let(time.Minute)
		w.close()
		w.open()
		w.engine = nil
		var drawn atomic.Int64
		w.o.Deliverer = deliverFunc(func(ctx context.Context, d delivery.Destination, s delivery.Source) error {
			var jobs []delivery.Job
			for j, ok := s.Next(ctx); ok; j, ok = s.Next(ctx) {
				jobs = append(jobs, j)
			}
			drawn.Add(int64(len(jobs)))
			dead := refused(delivery.ConnectFailed)
			for _, j := range jobs {
				s.Done(j, outcomes(j, delivery.Outcome{Err: dead}))
			}
			return dead
		})
		w.start()
		let(6 * time.Minute) // all at once: nothing is known after a restart
		before := drawn.Load()
		let(17 * time.Minute)
		if n := drawn.Load() - before; before != 20 || n != 1 {
			t.Errorf("%d drawn at first, then %d with the canary", before, n)
		}
		w.close()
	})
}

func TestEngineBounceVia(t *testing.T) {
	inBubble(t, "DSNs go the operator's way, ordinary mail to that address does not", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) {
			o.BounceVia = addr.LiteralHop(addrOf("127.0.0.1"), 0)
		})
		var routes []bool
		w.o.Deliverer = deliverFunc(func(ctx context.Context, d delivery.Destination, s delivery.Source) error {
			if d.NextHop.String() == "[127.0.0.1]" {
				routes = append(routes, d.Route)
			}
			return w.Deliver(ctx, d, s)
		})
		w.to("bad.example", says(delivery.StageRcpt, 550, [3]int{5, 1, 1}, "no"))
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@bad.example"})
		synctest.Wait()
		w.send(letter{from: "a@sender.example", to: "b@[127.0.0.1]"})
		synctest.Wait()
		if !slices.Equal(routes, []bool{true, false}) || len(w.tried("sender.example")) != 0 {
			t.Errorf("the operator's way: %v; by MX: %d", routes, len(w.tried("sender.example")))
		}
		w.close()
	})
}

type deliverFunc func(context.Context, delivery.Destination, delivery.Source) error

func (f deliverFunc) Deliver(ctx context.Context, d delivery.Destination, s delivery.Source) error {
	return f(ctx, d, s)
}
