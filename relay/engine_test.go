package relay_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/relay"
)

// inBubble runs a test in a time of its own.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// let time go by.
func let(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestEngineDelivers(t *testing.T) {
	inBubble(t, "a message is delivered at once and leaves the queue", func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		synctest.Wait()
		if n := len(w.tried("good.example")); n != 1 || len(w.entries()) != 0 {
			t.Errorf("%d attempts, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "SMTP-4.5.5-01 the job is the message: its sender as it is, its body, its properties", func(t *testing.T) {
		w := newWorld(t, nil)
		var body string
		w.to("good.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			body = read(t, j)
			return takes(ctx, j)
		})
		w.start()
		w.send(letter{from: "", to: "b@good.example c@good.example", body: "Subject: x\r\n\r\n\xff\r\n",
			options: relay.Options{EightBit: true, UTF8: true, Demand: delivery.Ignore, Report: true}})
		synctest.Wait()
		j := w.tried("good.example")[0]
		if !j.From.IsNull() || len(j.To) != 2 || j.To[1].Address.String() != "c@good.example" || !j.Body8 || !j.UTF8 ||
			j.Demand != delivery.Ignore || !j.Quiet || j.Final || j.Size != 17 || body != "Subject: x\r\n\r\n\xff\r\n" {
			t.Errorf("%+v, body %q", j, body)
		}
		w.close()
	})
	inBubble(t, "SMTP-6.2-01 each recipient ends in its own way: delivered, deferred, returned", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("good.example", func(_ context.Context, j delivery.Job) (a delivery.Attempt, _ *delivery.Error) {
			for _, r := range j.To {
				o := delivery.Outcome{MX: mx, Reply: "250 2.1.5 ok"}
				switch r.Address.Local() {
				case "later":
					o.Err = remote(delivery.StageRcpt, 451, [3]int{4, 7, 1}, "4.7.1 greylisted")
				case "never":
					o.Err = remote(delivery.StageRcpt, 550, [3]int{5, 1, 1}, "5.1.1 unknown")
				}
				a.Outcomes = append(a.Outcomes, o)
			}
			return a, nil
		})
		w.start()
		id := w.send(letter{from: "a@sender.example", to: "ok@good.example later@good.example never@good.example"})
		synctest.Wait()
		left := w.entries()
		if len(left) != 1 || left[0].ID != id || len(left[0].To) != 1 || left[0].To[0].Address.String() != "later@good.example" ||
			left[0].To[0].Last.Text != "4.7.1 greylisted" || left[0].Attempts != 1 {
			t.Fatalf("left: %+v", left)
		}
		for _, status := range []string{"sent", "deferred", "bounced"} {
			if n := len(w.log.lines(t, map[string]any{"queue_id": string(id), "status": status})); n != 1 {
				t.Errorf("%d lines say %s", n, status)
			}
		}
		if n := len(w.tried("sender.example")); n != 1 {
			t.Errorf("%d DSNs", n)
		}
		s := w.engine.Snapshot()
		if s.Sent != 2 || s.Deferred != 1 || s.Bounced != 1 || s.Active != 0 {
			t.Errorf("%+v", s)
		}
		w.close()
	})
	inBubble(t, "what an attempt did not say of a recipient leaves it in the queue", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("good.example", func(context.Context, delivery.Job) (delivery.Attempt, *delivery.Error) {
			return delivery.Attempt{}, nil
		})
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		synctest.Wait()
		if left := w.entries(); len(left) != 1 || left[0].To[0].Last.Reason != delivery.LocalError {
			t.Errorf("%+v", left)
		}
		w.close()
	})
	inBubble(t, "a destination that cannot be read fails alone", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("", fails(refused(delivery.DNSFailed), 0))
		b, _ := w.NewBody(t.Context())
		_, _ = b.Write([]byte("x"))
		if err := w.Accept(t.Context(), relay.Message{ID: "X", From: addr.MustAddress("a@b.example"),
			Entries: []relay.NewEntry{{ID: "X", Destination: "not a name", To: []relay.Recipient{{Address: addr.MustAddress("c@d.example")}}}}}, b); err != nil {
			t.Fatal(err)
		}
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		let(time.Minute)
		if left := w.entries(); len(left) != 1 || left[0].ID != "X" {
			t.Errorf("%+v", left)
		}
		w.close()
	})
}

func TestEngineDefers(t *testing.T) {
	inBubble(t, "SMTP-4.2.5-01 SMTP-4.5.4.1-01 SMTP-4.5.4.1-08 what a server defers is tried after five minutes, not at once", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("grey.example", says(delivery.StageContent, 451, [3]int{4, 7, 1}, "4.7.1 later"))
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@grey.example"})
		let(5*time.Minute - time.Second)
		if n := len(w.tried("grey.example")); n != 1 {
			t.Fatalf("%d attempts in the first five minutes", n)
		}
		w.to("grey.example", takes)
		let(31 * time.Second)
		if n := len(w.tried("grey.example")); n != 2 || len(w.entries()) != 0 {
			t.Errorf("%d attempts, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "greylisting of one message does not keep another", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("grey.example", says(delivery.StageRcpt, 451, [3]int{4, 7, 1}, "4.7.1 later"))
		w.start()
		for range 50 {
			w.send(letter{from: "a@sender.example", to: "b@grey.example"})
		}
		synctest.Wait()
		if n := len(w.tried("grey.example")); n != 50 {
			t.Errorf("%d of 50 were tried", n)
		}
		if s := w.engine.Snapshot(); len(s.Destinations) != 0 {
			t.Errorf("backs off: %+v", s.Destinations)
		}
		w.close()
	})
	inBubble(t, "SMTP-4.5.4.1-05 SMTP-4.2.5-01 a 550 to MAIL returns that message, and the next is tried", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("strict.example", says(delivery.StageMail, 550, [3]int{5, 7, 1}, "5.7.1 not you"))
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@strict.example"})
		synctest.Wait()
		w.to("strict.example", takes)
		w.send(letter{from: "a@sender.example", to: "b@strict.example"})
		synctest.Wait()
		if n := len(w.tried("strict.example")); n != 2 || len(w.entries()) != 0 {
			t.Errorf("%d attempts, %d left", n, len(w.entries()))
		}
		if n := len(w.tried("sender.example")); n != 1 {
			t.Errorf("%d DSNs", n)
		}
		w.close()
	})
	inBubble(t, "a lost connection after the final dot is deferred and told of as a possible duplicate", func(t *testing.T) {
		w := newWorld(t, nil)
		lost := delivery.NewError(delivery.StageContent, delivery.ConnectionLost, mx, "lost the connection")
		w.to("flaky.example", func(_ context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			return outcomes(j, delivery.Outcome{Err: lost, MX: mx, MayDup: true}), nil
		})
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@flaky.example"})
		synctest.Wait()
		if len(w.entries()) != 1 || !w.log.has("possible duplicate") || w.engine.Snapshot().MayDup != 1 {
			t.Errorf("%d left, %+v", len(w.entries()), w.engine.Snapshot())
		}
		w.close()
	})
}

func TestEngineLanes(t *testing.T) {
	// slow counts how many connections a destination has at once.
	slow := func(now, most *atomic.Int64, each time.Duration) behaviour {
		return func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			n := now.Add(1)
			defer now.Add(-1)
			for {
				m := most.Load()
				if n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			pass(ctx, each)
			return takes(ctx, j)
		}
	}
	inBubble(t, "SMTP-4.5.4.1-07 a deep backlog gets more connections, up to the limit", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.Lanes = 4 })
		var now, most atomic.Int64
		w.to("slow.example", slow(&now, &most, 200*time.Millisecond))
		for range 300 {
			w.send(letter{from: "a@sender.example", to: "b@slow.example"})
		}
		w.start()
		let(20 * time.Second)
		if len(w.entries()) != 0 || most.Load() != 4 {
			t.Errorf("%d connections at most, %d left", most.Load(), len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "a few messages that go fast share one connection", func(t *testing.T) {
		w := newWorld(t, nil)
		var now, most atomic.Int64
		w.to("fast.example", slow(&now, &most, time.Millisecond))
		for range 60 {
			w.send(letter{from: "a@sender.example", to: "b@fast.example"})
		}
		w.start()
		let(time.Minute)
		if len(w.entries()) != 0 || w.connections("fast.example") != 1 {
			t.Errorf("%d connections, %d left", w.connections("fast.example"), len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "a stream of new mail to a slow server gets more connections too", func(t *testing.T) {
		w := newWorld(t, nil)
		var now, most atomic.Int64
		w.to("slow.example", slow(&now, &most, 500*time.Millisecond))
		w.start()
		for range 1000 {
			w.send(letter{from: "a@sender.example", to: "b@slow.example"})
			let(50 * time.Millisecond)
		}
		if n := len(w.entries()); n > 50 || most.Load() < 5 {
			t.Errorf("%d wait, %d connections at most", n, most.Load())
		}
		let(time.Minute)
		w.close()
	})
	inBubble(t, "many messages that go fast have no use for a second", func(t *testing.T) {
		w := newWorld(t, nil)
		var now, most atomic.Int64
		w.to("fast.example", slow(&now, &most, time.Millisecond))
		for range 2000 {
			w.send(letter{from: "a@sender.example", to: "b@fast.example"})
		}
		w.start()
		let(time.Minute)
		if len(w.entries()) != 0 || w.connections("fast.example") != 1 {
			t.Errorf("%d connections, %d left", w.connections("fast.example"), len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "a message that waits for hours behind others is given back, and delivered once", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.Lanes = 1 })
		w.to("slow.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			pass(ctx, 25*time.Minute)
			return takes(ctx, j)
		})
		for range 20 {
			w.send(letter{from: "a@sender.example", to: "b@slow.example"})
		}
		w.start()
		let(9 * time.Hour)
		if n := len(w.tried("slow.example")); len(w.entries()) != 0 || n != 20 {
			t.Errorf("%d attempts, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "new mail does not wait behind one that takes long", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("slow.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			if j.ID == "M000002" {
				pass(ctx, time.Hour)
			}
			return takes(ctx, j)
		})
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@slow.example"})
		w.send(letter{from: "a@sender.example", to: "b@slow.example"})
		let(time.Second)
		w.send(letter{from: "a@sender.example", to: "b@slow.example"})
		let(unheardLimit)
		if n := len(w.entries()); n != 1 {
			t.Errorf("%d left, want only the slow one", n)
		}
		let(time.Hour)
		w.close()
	})
	inBubble(t, "a server that takes no more connections is not taken for dead", func(t *testing.T) {
		w := newWorld(t, nil)
		var now, most atomic.Int64
		ok := slow(&now, &most, 500*time.Millisecond)
		busy := &delivery.Error{Stage: delivery.StageGreeting, MX: mx, Reason: delivery.RemoteReply, Remote: true, Code: 421, Enhanced: [3]int{4, 7, 0}, Text: "too many connections"}
		w.to("busy.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			if now.Load() >= 2 {
				return outcomes(j, delivery.Outcome{Err: busy, MX: mx}), busy
			}
			return ok(ctx, j)
		})
		for range 100 {
			w.send(letter{from: "a@sender.example", to: "b@busy.example"})
		}
		w.start()
		let(time.Minute)
		if n := len(w.entries()); n != 0 || w.connections("busy.example") > 4 {
			t.Errorf("%d left, %d connections", n, w.connections("busy.example"))
		}
		w.close()
	})
}

// unheardLimit is longer than the engine waits with a second connection for a
// destination that it has not heard of in this visit.
const unheardLimit = 11 * time.Second

func TestEngineLog(t *testing.T) {
	inBubble(t, "one line for each recipient and attempt, with all that is known", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("good.example", func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
			pass(ctx, 1500*time.Millisecond)
			a, _ := takes(ctx, j)
			a.Outcomes[0].Delay = delivery.Delays{Setup: 250 * time.Millisecond, Transmit: 1250 * time.Millisecond}
			return a, nil
		})
		id := w.send(letter{from: "a@sender.example", to: "b@good.example", options: relay.Options{Upstream: "4XYZ"}})
		let(2 * time.Second)
		w.start()
		let(2 * time.Second)
		lines := w.log.lines(t, map[string]any{"queue_id": string(id), "from": "a@sender.example", "to": "b@good.example", "relay": "mx.test.example",
			"delay": 3.5, "delays": "2/0/0.25/1.2", "dsn": "2.0.0", "status": "sent", "reply": "250 2.0.0 ok", "tls": "Verified TLSv1.3",
			"policy": "sts:enforce id=1", "upstream_id": "4XYZ", "attempt": 1.0,
			"message": "M000001: to=<b@good.example>, relay=mx.test.example, delay=3.5, delays=2/0/0.25/1.2, dsn=2.0.0, status=sent (250 2.0.0 ok)"})
		if len(lines) != 1 || !w.log.has("M000001: removed") {
			t.Errorf("log:\n%s", w.log.b.String())
		}
		w.close()
	})
	inBubble(t, "a refusal names its reason", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("bad.example", fails(refused(delivery.CertExpired), 0))
		w.start()
		id := w.send(letter{from: "a@sender.example", to: "b@bad.example"})
		synctest.Wait()
		if n := len(w.log.lines(t, map[string]any{"queue_id": string(id), "status": "deferred", "dsn": "4.7.5", "reason": "certificate-expired"})); n != 1 {
			t.Errorf("log:\n%s", w.log.b.String())
		}
		w.close()
	})
}

func read(t *testing.T, j delivery.Job) string {
	t.Helper()
	r, err := j.Open()
	if err != nil {
		t.Error(err)
		return ""
	}
	defer r.Close()
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return b.String()
		}
	}
}
