package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/addr"
	"stsrelay/internal/boltstore"
	"stsrelay/relay"

	"github.com/rs/zerolog"
)

// A world is an Engine over a real store, and destinations that obey the test.
// It lives in a synctest bubble: its time is not ours.
type world struct {
	relay.Store
	t      testing.TB
	dir    string
	bolt   *boltstore.Store
	engine *relay.Engine
	o      relay.EngineOptions
	log    *logBuffer
	stop   context.CancelFunc
	ended  chan error
	count  int

	mu       sync.Mutex
	behave   map[string]behaviour // by next hop
	connects map[string]int
	jobs     map[string][]delivery.Job
	waiting  []string
}

// A behaviour is what a destination does with one message. A destination that
// fails as a whole returns a *delivery.Error, as Deliver would.
type behaviour func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error)

func newWorld(t testing.TB, change func(*relay.EngineOptions)) *world {
	w := &world{t: t, dir: t.TempDir(), log: &logBuffer{}, behave: map[string]behaviour{}, connects: map[string]int{}, jobs: map[string][]delivery.Job{}}
	w.o = relay.EngineOptions{Deliverer: w, Hostname: "relay.example.com", Log: zerolog.New(w.log),
		Waiting: func(d addr.Domain, on bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.waiting = append(w.waiting, fmt.Sprintf("%s %t", d, on))
		}}
	if change != nil {
		change(&w.o)
	}
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	s, err := boltstore.Open(w.dir, boltstore.Options{NoSync: true, FreeSpace: -1, Log: zerolog.Nop()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.bolt = s
	if w.Store == nil {
		w.Store = s
	}
	if f, ok := w.Store.(*faultyStore); ok {
		f.Store = s
	} else {
		w.Store = s
	}
}

// start runs the engine.
func (w *world) start() {
	w.o.Store = w.Store
	w.engine = relay.NewEngine(w.o)
	ctx, stop := context.WithCancel(w.t.Context())
	w.stop, w.ended = stop, make(chan error, 1)
	go func(e *relay.Engine) { w.ended <- e.Run(ctx) }(w.engine)
}

// end stops the engine and returns what Run did.
func (w *world) end() error {
	w.stop()
	return <-w.ended
}

// close ends everything, and fails the test if that has an error.
func (w *world) close() {
	w.t.Helper()
	if err := w.end(); err != nil {
		w.t.Error(err)
	}
	if err := w.bolt.Close(); err != nil {
		w.t.Error(err)
	}
}

// A letter is a message to be queued.
type letter struct {
	from, to string // to: recipients of one domain, separated by blanks
	body     string
	options  relay.Options
	notify   string
	original string
}

// send queues a message and wakes the engine if it runs.
func (w *world) send(l letter) relay.ID {
	w.t.Helper()
	var to []relay.Recipient
	for _, a := range strings.Fields(l.to) {
		to = append(to, relay.Recipient{Address: addr.MustAddress(a), Notify: l.notify, Original: l.original})
	}
	return w.sendTo(l, to...)
}

// sendTo is send to recipients that differ.
func (w *world) sendTo(l letter, to ...relay.Recipient) relay.ID {
	w.t.Helper()
	w.count++
	id := relay.ID(fmt.Sprintf("M%06d", w.count))
	m := relay.Message{ID: id, From: addr.MustAddress(l.from), Options: l.options}
	e := relay.NewEntry{ID: id, Destination: relay.Destination(to[0].Address.NextHop().String()), To: to}
	m.Entries = []relay.NewEntry{e}
	if l.body == "" {
		l.body = "Subject: test\r\nMessage-ID: <1@sender.example>\r\n\r\nHello\r\n"
	}
	b, err := w.NewBody(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(b, l.body); err != nil {
		w.t.Fatal(err)
	}
	m.Size = b.Size()
	if err := w.Accept(w.t.Context(), m, b); err != nil {
		w.t.Fatal(err)
	}
	if w.engine != nil {
		w.engine.Wake(e.Destination)
	}
	return id
}

// to makes a destination behave. Without it, everything is taken.
func (w *world) to(hop string, b behaviour) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.behave[hop] = b
}

func (w *world) connections(hop string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connects[hop]
}

// tried returns the jobs that a destination was given.
func (w *world) tried(hop string) []delivery.Job {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]delivery.Job(nil), w.jobs[hop]...)
}

// Deliver is the network.
func (w *world) Deliver(ctx context.Context, d delivery.Destination, s delivery.Source) error {
	hop := d.NextHop.String()
	connected := false
	for ctx.Err() == nil {
		j, ok := s.Next(ctx)
		if !ok {
			return ctx.Err()
		}
		w.mu.Lock()
		b := w.behave[hop]
		if !connected {
			w.connects[hop]++
			connected = true
		}
		w.jobs[hop] = append(w.jobs[hop], j)
		w.mu.Unlock()
		if b == nil {
			b = takes
		}
		a, err := b(ctx, j)
		s.Done(j, a)
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// entries lists the queue.
func (w *world) entries() []relay.Entry {
	w.t.Helper()
	var all []relay.Entry
	for after := relay.Cursor(""); ; {
		page, next, err := w.List(w.t.Context(), relay.Filter{}, after, 1000)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, page...)
		if next == "" {
			return all
		}
		after = next
	}
}

// outcomes is an Attempt that did the same to all.
func outcomes(j delivery.Job, o delivery.Outcome) (a delivery.Attempt) {
	for range j.To {
		a.Outcomes = append(a.Outcomes, o)
	}
	return a
}

var mx = addr.MustHost("mx.test.example")

func takes(_ context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
	return outcomes(j, delivery.Outcome{MX: mx, Reply: "250 2.0.0 ok", TLS: "Verified TLSv1.3", Policy: "sts:enforce id=1"}), nil
}

// fails is a destination that fails as a whole, after a while.
func fails(e *delivery.Error, after time.Duration) behaviour {
	return func(ctx context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
		pass(ctx, after)
		return outcomes(j, delivery.Outcome{Err: e, MX: e.MX, Policy: "none"}), e
	}
}

// says is a server that answers RCPT or content with this.
func says(stage delivery.Stage, reply int, enhanced [3]int, text string) behaviour {
	return func(_ context.Context, j delivery.Job) (delivery.Attempt, *delivery.Error) {
		return outcomes(j, delivery.Outcome{MX: mx, Err: remote(stage, reply, enhanced, text)}), nil
	}
}

func remote(stage delivery.Stage, reply int, enhanced [3]int, text string) *delivery.Error {
	return &delivery.Error{Stage: stage, MX: mx, Addr: "192.0.2.1:25", Reason: delivery.RemoteReply,
		Permanent: reply >= 500, Code: reply, Enhanced: enhanced, Remote: true, Text: text}
}

func refused(r delivery.Reason) *delivery.Error {
	stage := delivery.StageConnect
	if r.Info().Expired != [3]int{} {
		stage = delivery.StagePolicy
	}
	if r.Info().Permanent || r == delivery.DNSFailed {
		stage = delivery.StagePlan
	}
	return delivery.NewError(stage, r, mx, "it does not work")
}

// pass lets time go by in the network.
func pass(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// A logBuffer keeps the log, and tells when it grows.
type logBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{} // closed by the next line
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	return l.b.Write(p)
}

// grows is closed when there is more than now.
func (l *logBuffer) grows() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more == nil {
		l.more = make(chan struct{})
	}
	return l.more
}

// wait looks, each time something is logged, whether it has happened.
func (w *world) wait(happened func() bool) {
	w.t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for {
		more := w.log.grows()
		if happened() {
			return
		}
		again := time.NewTimer(100 * time.Millisecond) // some things are not logged
		select {
		case <-more:
		case <-again.C:
		case <-limit.C:
			w.t.Fatalf("it does not happen; log:\n%s", w.log.text())
		}
		again.Stop()
	}
}

func (l *logBuffer) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// heard returns what the engine said of domains whose policy mail waits for.
func (w *world) heard() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.waiting...)
}

// lines returns the log's objects that have all of these fields.
func (l *logBuffer) lines(t testing.TB, want map[string]any) (found []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		all := true
		for k, v := range want {
			all = all && m[k] == v
		}
		if all {
			found = append(found, m)
		}
	}
	return found
}

func (l *logBuffer) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

func addrOf(s string) netip.Addr { return netip.MustParseAddr(s) }

// contains reports whether text has all of these.
func contains(text string, all ...string) bool {
	for _, s := range all {
		if !strings.Contains(text, s) {
			return false
		}
	}
	return true
}
