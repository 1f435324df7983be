package relay_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/relay"
)

// A mailbox is a destination that keeps what it is sent.
type mailbox struct {
	mu  sync.Mutex
	got []string
}

func (m *mailbox) take(t *testing.T) behaviour {
	return func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
		text := j.From.Path() + " " + j.To[0].Address.String() + "\n" + read(t, j)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.got = append(m.got, text)
		return takes(ctx, j)
	}
}

func (m *mailbox) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.got)
}

// offersDSN is a server that takes everything and tells of success itself.
func offersDSN(_ context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
	return outcomes(j, delivery.Outcome{MX: mx, Reply: "250 2.0.0 ok", DSN: true}), nil
}

// Who is told of what, by NOTIFY (RFC 3461, Sections 4.1 and 5.2).
func TestEngineNotify(t *testing.T) {
	gone := says(delivery.StageRcpt, 550, [3]int{5, 1, 1}, "5.1.1 unknown")
	tests := []struct {
		name   string
		notify string
		server behaviour
		action string // of the one notice; "": there is none
	}{
		{"DSN-5.2.2-02 success, to a server without DSN", "SUCCESS", takes, "relayed"},
		{"DSN-5.2.2-02 success among others", "FAILURE,SUCCESS", takes, "relayed"},
		{"DSN-5.2.1-01 success, to a server with DSN: it will tell", "SUCCESS", offersDSN, ""},
		{"DSN-5.2.2-04 nothing said, success", "", takes, ""},
		{"failure and delay only, success", "FAILURE,DELAY", takes, ""},
		{"DSN-5.2.2-05 never, success", "NEVER", takes, ""},
		{"DSN-5.2.2-03 failure", "FAILURE", gone, "failed"},
		{"DSN-5.2.2-03 DSN-4.1-02 nothing said, failure", "", gone, "failed"},
		{"DSN-5.2.2-03 success only, failure", "SUCCESS", gone, ""},
		{"DSN-5.2.2-03 DSN-5.2.2-05 never, failure", "NEVER", gone, ""},
		{"DSN-5.2.2-02 success and delay, to a server without DSN", "SUCCESS,DELAY", takes, "relayed"},
		{"DSN-5.2.1-01 all three, to a server with DSN", "SUCCESS,FAILURE,DELAY", offersDSN, ""},
		{"delay only, success", "DELAY", takes, ""},
		{"DSN-5.2.2-03 failure among others, failure", "SUCCESS,FAILURE,DELAY", gone, "failed"},
		{"DSN-5.2.2-03 delay only, failure", "DELAY", gone, ""},
		{"DSN-5.2.2-03 success and delay, failure", "SUCCESS,DELAY", gone, ""},
	}
	for _, tt := range tests {
		inBubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t, nil)
			box := &mailbox{}
			w.to("far.example", tt.server)
			w.to("sender.example", box.take(t))
			w.start()
			w.send(letter{from: "a@sender.example", to: "x@far.example", notify: tt.notify})
			let(time.Second)
			got := box.all()
			switch {
			case tt.action == "" && len(got) > 0:
				t.Errorf("told: %s", got)
			case tt.action != "" && (len(got) != 1 || !strings.Contains(got[0], "Action: "+tt.action+"\r\n")):
				t.Errorf("%d notices: %s", len(got), got)
			}
			if len(w.entries()) != 0 {
				t.Errorf("%d left", len(w.entries()))
			}
			w.close()
		})
	}
	inBubble(t, "DSN-5.2.8-01 one notice names those who are due, and nobody else", func(t *testing.T) {
		w := newWorld(t, nil)
		box := &mailbox{}
		w.to("far.example", takes)
		w.to("sender.example", box.take(t))
		w.start()
		w.sendTo(letter{from: "a@sender.example"}, relay.Recipient{Address: addr.MustAddress("x@far.example"), Notify: "SUCCESS"},
			relay.Recipient{Address: addr.MustAddress("y@far.example"), Notify: "NEVER"}, relay.Recipient{Address: addr.MustAddress("z@far.example"), Notify: "SUCCESS,FAILURE"})
		let(time.Second)
		if got := box.all(); len(got) != 1 || !contains(got[0], "Final-Recipient: rfc822; x@far.example", "Final-Recipient: rfc822; z@far.example", "relayed") || strings.Contains(got[0], "y@far.example") {
			t.Errorf("%d notices: %s", len(got), got)
		}
		w.close()
	})
	inBubble(t, "DSN-5.2-01 a null sender is told of nothing, whatever NOTIFY says", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("far.example", takes)
		w.start()
		w.send(letter{from: "", to: "x@far.example", notify: "SUCCESS"})
		let(time.Second)
		if len(w.entries()) != 0 || w.log.has("sender notification") {
			t.Errorf("%d left", len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "DSN-4.1-02 without NOTIFY the sender hears of a delay", func(t *testing.T) {
		for notify, want := range map[string]int{"": 1, "FAILURE": 0, "DELAY": 1, "NEVER": 0} {
			w := newWorld(t, nil)
			box := &mailbox{}
			w.to("slow.example", says(delivery.StageRcpt, 450, [3]int{4, 2, 0}, "4.2.0 later"))
			w.to("sender.example", box.take(t))
			w.start()
			w.send(letter{from: "a@sender.example", to: "x@slow.example", notify: notify})
			let(9 * time.Hour)
			if got := box.all(); len(got) != want {
				t.Errorf("NOTIFY=%s: %d notices: %s", notify, len(got), got)
			}
			w.close()
		}
	})
}

func TestEngineDSN(t *testing.T) {
	gone := says(delivery.StageRcpt, 550, [3]int{5, 1, 1}, "5.1.1 unknown")
	inBubble(t, "SMTP-3.6.3-01 SMTP-4.4-06 failed recipients are told of to the sender, in one DSN", func(t *testing.T) {
		w := newWorld(t, nil)
		box := &mailbox{}
		w.to("bad.example", gone)
		w.to("sender.example", box.take(t))
		w.start()
		w.send(letter{from: "a@sender.example", to: "x@bad.example y@bad.example z@bad.example", notify: "FAILURE"})
		let(time.Second)
		if got := box.all(); len(got) != 1 || !strings.HasPrefix(got[0], "<> a@sender.example\n") || strings.Count(got[0], "Action: failed") != 3 ||
			!contains(got[0], "x@bad.example", "y@bad.example", "z@bad.example", "Subject: test\r\n") {
			t.Errorf("%d DSNs: %s", len(got), got)
		}
		w.close()
	})
	inBubble(t, "very many failed recipients make more than one DSN", func(t *testing.T) {
		w := newWorld(t, nil)
		box := &mailbox{}
		w.to("bad.example", gone)
		w.to("sender.example", box.take(t))
		w.start()
		w.send(letter{from: "a@sender.example", to: strings.Repeat("x@bad.example ", 450)})
		let(time.Second)
		if got := box.all(); len(got) != 3 || strings.Count(strings.Join(got, ""), "Action: failed") != 450 {
			t.Errorf("%d DSNs", len(got))
		}
		w.close()
	})
	inBubble(t, "DSN-5.2.6-01 whoever asked for no notice gets none", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("bad.example", gone)
		w.start()
		w.send(letter{from: "a@sender.example", to: "x@bad.example", notify: "NEVER"})
		w.send(letter{from: "a@sender.example", to: "x@bad.example", notify: "DELAY"})
		w.send(letter{from: "a@sender.example", to: "x@bad.example", options: relay.Options{Report: true}})
		let(time.Second)
		if len(w.tried("sender.example")) != 0 || len(w.entries()) != 0 {
			t.Errorf("%d DSNs, %d left", len(w.tried("sender.example")), len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "SMTP-3.6.3-02 DSN-5.2-01 mail with a null sender makes no DSN; the postmaster hears of it once a day", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.Postmaster = "postmaster@own.example" })
		box := &mailbox{}
		w.to("bad.example", gone)
		w.to("own.example", box.take(t))
		w.start()
		w.send(letter{from: "", to: "x@bad.example"})
		w.send(letter{from: "", to: "y@bad.example"})
		let(time.Second)
		if got := box.all(); len(got) != 1 || !strings.HasPrefix(got[0], "<> postmaster@own.example\n") || !contains(got[0], "x@bad.example", "5.1.1 unknown") {
			t.Errorf("%d notices: %s", len(got), got)
		}
		w.close()
	})
	inBubble(t, "SMTP-3.6.3-02 a notice to the postmaster that fails makes no other", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.Postmaster = "postmaster@own.example" })
		w.to("bad.example", gone)
		w.to("own.example", gone)
		w.start()
		w.send(letter{from: "", to: "x@bad.example"})
		let(time.Second)
		if len(w.tried("own.example")) != 1 || len(w.entries()) != 0 {
			t.Errorf("%d notices, %d left", len(w.tried("own.example")), len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "SMTP-3.6.3-02 without a postmaster the log tells", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("bad.example", gone)
		w.start()
		w.send(letter{from: "", to: "x@bad.example"})
		let(time.Second)
		if len(w.entries()) != 0 || !w.log.has("could not be delivered and is dropped") {
			t.Error("not told")
		}
		w.close()
	})
	inBubble(t, "NMX-4-01 a DSN to a domain that takes no mail is dropped with a log line", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.Postmaster = "postmaster@own.example" })
		w.to("bad.example", gone)
		w.to("sender.example", fails(refused(delivery.NullMX), 0))
		w.start()
		w.send(letter{from: "a@sender.example", to: "x@bad.example"})
		let(time.Second)
		if len(w.tried("sender.example")) != 1 || len(w.tried("own.example")) != 0 || len(w.entries()) != 0 || !w.log.has("could not be delivered and is dropped") {
			t.Errorf("%d and %d, %d left", len(w.tried("sender.example")), len(w.tried("own.example")), len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "X-10 a DSN obeys the policy of the sender's domain: it waits, and is dropped in the end", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("bad.example", gone)
		w.to("sender.example", fails(refused(delivery.MXNotListed), 0))
		w.start()
		w.send(letter{from: "a@sender.example", to: "x@bad.example"})
		let(4 * 24 * time.Hour)
		if n := len(w.entries()); n != 1 {
			t.Fatalf("%d wait", n)
		}
		for _, j := range w.tried("sender.example") {
			if j.Demand != delivery.Default || j.Quiet {
				t.Fatalf("it asks for less than other mail: %+v", j)
			}
		}
		let(2 * 24 * time.Hour)
		if len(w.entries()) != 0 || len(w.tried("sender.example")) < 20 {
			t.Errorf("%d left", len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "DSN-6.2-02 RTLS-5-02 RET=FULL returns a small message, not a large one, nor one with REQUIRETLS", func(t *testing.T) {
		w := newWorld(t, nil)
		box := &mailbox{}
		w.to("bad.example", gone)
		w.to("sender.example", box.take(t))
		w.start()
		w.send(letter{from: "a@sender.example", to: "x@bad.example", options: relay.Options{Return: "FULL"}})
		w.send(letter{from: "a@sender.example", to: "x@bad.example", options: relay.Options{Return: "HDRS"}})
		w.send(letter{from: "a@sender.example", to: "x@bad.example"})
		w.send(letter{from: "a@sender.example", to: "x@bad.example", options: relay.Options{Return: "FULL", Demand: delivery.Require}})
		w.send(letter{from: "a@sender.example", to: "x@bad.example", options: relay.Options{Return: "FULL"}, body: "Subject: x\r\n\r\nHello\r\n" + strings.Repeat("0123456789\r\n", 6000)})
		w.send(letter{from: "a@sender.example", to: "x@bad.example", options: relay.Options{Return: "FULL"}, body: "Subject: x\r\n\r\nHello \xff\r\n"})
		let(time.Second)
		var whole []string
		got := box.all()
		for i, text := range got {
			if strings.Contains(text, "Hello") {
				whole = append(whole, fmt.Sprint(i))
			}
		}
		if len(got) != 6 || strings.Join(whole, "") != "0" {
			t.Errorf("of %d DSNs these return the content: %v", len(got), whole)
		}
		w.close()
	})
}

func TestEngineWarns(t *testing.T) {
	inBubble(t, "a sender hears of a delay once, after four hours", func(t *testing.T) {
		w := newWorld(t, nil)
		box := &mailbox{}
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 0))
		w.to("sender.example", box.take(t))
		w.start()
		w.send(letter{from: "a@sender.example", to: "x@dead.example y@dead.example"})
		let(3*time.Hour + 50*time.Minute)
		if got := box.all(); len(got) != 0 {
			t.Fatalf("too early: %s", got)
		}
		let(4 * 24 * time.Hour)
		if got := box.all(); len(got) != 1 || strings.Count(got[0], "Action: delayed") != 2 || !contains(got[0], "Will-Retry-Until: ", "Status: 4.4.1") {
			t.Errorf("%d notices: %s", len(got), got)
		}
		w.close()
	})
	inBubble(t, "DSN-5.2.5-01 whoever named other notices, or has no address, hears nothing", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 0))
		w.start()
		w.send(letter{from: "a@sender.example", to: "x@dead.example", notify: "FAILURE"})
		w.send(letter{from: "a@sender.example", to: "x@dead.example", notify: "NEVER"})
		w.send(letter{from: "", to: "x@dead.example"})
		w.send(letter{from: "a@sender.example", to: "x@dead.example", options: relay.Options{Report: true}})
		let(4 * 24 * time.Hour)
		if n := len(w.tried("sender.example")); n != 0 {
			t.Errorf("%d notices", n)
		}
		w.close()
	})
	inBubble(t, "refusals by a policy are told to a sender once a day for each destination", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("strict.example", fails(refused(delivery.MXNotListed), 0))
		w.to("other.example", fails(refused(delivery.MXNotListed), 0))
		w.start()
		for range 30 {
			w.send(letter{from: "a@sender.example", to: "x@strict.example"})
		}
		w.send(letter{from: "b@sender2.example", to: "x@strict.example"})
		w.send(letter{from: "a@sender.example", to: "x@other.example"})
		let(23 * time.Hour)
		if a, b := len(w.tried("sender.example")), len(w.tried("sender2.example")); a != 2 || b != 1 {
			t.Errorf("on the first day %d and %d notices", a, b)
		}
		let(2 * 24 * time.Hour)
		if a, b := len(w.tried("sender.example")), len(w.tried("sender2.example")); a < 3 || a > 4 || b != 1 {
			t.Errorf("on three days %d and %d notices", a, b)
		}
		w.close()
	})
}

func TestEngineOutage(t *testing.T) {
	inBubble(t, "while our own fault makes many domains fail nothing is given up, and then it is", func(t *testing.T) {
		w := newWorld(t, func(o *relay.EngineOptions) { o.WarnAfter = 100 * 24 * time.Hour })
		for i := range 20 {
			d := fmt.Sprintf("d%d.example", i)
			w.to(d, fails(refused(delivery.DNSFailed), 0))
			w.send(letter{from: "", to: "x@" + d})
		}
		w.start()
		let(7 * 24 * time.Hour)
		if n := len(w.entries()); n != 20 || w.engine.Snapshot().Outage == "" {
			t.Fatalf("%d left, %q", n, w.engine.Snapshot().Outage)
		}
		w.to("d0.example", takes)
		let(10 * time.Hour)
		if n := len(w.entries()); n != 0 || w.engine.Snapshot().Outage != "" {
			t.Errorf("%d left, %q", n, w.engine.Snapshot().Outage)
		}
		w.close()
	})
}

func TestEngineOutageEnds(t *testing.T) {
	inBubble(t, "what looks like our own fault holds a message for as long again, not for ever", func(t *testing.T) {
		w := newWorld(t, nil)
		for i := range 30 {
			d := fmt.Sprintf("d%d.example", i)
			w.to(d, fails(refused(delivery.ConnectFailed), 0))
			w.send(letter{from: "", to: "x@" + d, options: relay.Options{Expire: 24 * time.Hour}})
		}
		w.start()
		let(47 * time.Hour)
		if n := len(w.entries()); n != 30 {
			t.Errorf("%d left", n)
		}
		let(6 * time.Hour)
		if n := len(w.entries()); n != 0 {
			t.Errorf("%d are held for ever", n)
		}
		w.close()
	})
}
