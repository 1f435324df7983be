package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/lab"
	"stsrelay/relay"
)

// A trial is one scenario and what became of it.
type trial struct {
	lab.Scenario
	theme    string
	got      lab.Expect
	reply    string   // what the relay says of the attempt, in its words
	rule     string   // the RFC it names
	notice   *notice  // the bounce that came
	report   *told    // the TLS report that came
	ids      []string // queue ids of the messages, in order
	problems []string // empty: all is as expected
	took     time.Duration
}

// patience is how long a trial may take in all.
const patience = 30 * time.Second

// glance is how often a trial looks whether something has happened.
const glance = 15 * time.Millisecond

// try sends the messages of a scenario and finds out what became of them.
func (b *labBench) try(ctx context.Context, t *trial) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not finished within %s", patience))
	defer cancel()
	began := time.Now()
	defer func() { t.took = time.Since(began) }()
	if t.Break != nil {
		first := lab.Expect{Outcome: lab.Delivered, TLS: lab.Verified}
		saw, err := b.send(ctx, t, 1)
		if err == nil {
			t.problems = saw.against(first)
		}
		if err != nil || len(t.problems) > 0 {
			t.fault("the first message, before the change: ", err)
			return
		}
		if err := spoken(func() { t.Break(b.world) }); err != nil {
			t.fault("", err)
			return
		}
	}
	saw, err := b.send(ctx, t, len(t.ids)+1)
	if err != nil {
		t.fault("", err)
		return
	}
	want := t.Expect
	want.Next = ""
	t.got, t.reply, t.rule, t.notice = saw.outcome(), saw.reply(), saw.rule(), saw.notice
	t.problems = saw.against(want)
	if t.Expect.Next != "" && len(t.problems) == 0 {
		t.fault("at the next attempt: ", b.again(ctx, t, saw))
	}
}

// fault notes an error, and puts its place before every problem.
func (t *trial) fault(place string, err error) {
	if err != nil {
		t.problems = append(t.problems, err.Error())
	}
	for i := range t.problems {
		t.problems[i] = place + t.problems[i]
	}
}

// send hands over a message and waits for the end of its first attempt.
func (b *labBench) send(ctx context.Context, t *trial, n int) (*sighting, error) {
	client := &tls.Config{RootCAs: b.world.Roots(), ServerName: labRelay}
	s := &sighting{letter: letterTo(t.Domain, n).as(t.Mail, client), attempt: 1, arrived: len(b.world.Arrivals(t.Domain)), told: tellingsOf(b.world, t.Domain)}
	id, err := submit(ctx, b.relay, s.letter)
	if err != nil {
		return nil, fmt.Errorf("the relay did not take the message: %w", err)
	}
	s.id = id
	t.ids = append(t.ids, id)
	return s, b.watch(ctx, s)
}

// again has the operator retry what was deferred, and judges the next attempt.
func (b *labBench) again(ctx context.Context, t *trial, before *sighting) error {
	done, err := b.client.Edit(ctx, relay.Filter{IDs: []relay.ID{relay.ID(before.id)}}, relay.Action{Verb: relay.VerbRetry, Reason: "lab"})
	if err != nil {
		return fmt.Errorf("queue retry: %w", err)
	}
	if done.Count != 1 {
		return fmt.Errorf("queue retry found %d messages", done.Count)
	}
	s := &sighting{letter: before.letter, id: before.id, attempt: 2, arrived: before.arrived, told: before.told}
	if err := b.watch(ctx, s); err != nil {
		return err
	}
	want := s.outcome()
	t.got.Next = want.Outcome
	if want.Outcome != t.Expect.Next {
		want = lab.Expect{Outcome: t.Expect.Next}
	}
	t.problems = s.against(want)
	return nil
}

// watch waits until an attempt has ended, and gathers what is seen of it: what
// the MX hosts took, what waits in the queue, and what came back to the sender.
func (b *labBench) watch(ctx context.Context, s *sighting) error {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		done, err := b.look(ctx, s)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return b.lost(ctx, s)
		case <-tick.C:
		}
	}
}

// look gathers what can be seen now, and reports whether it is the whole.
func (b *labBench) look(ctx context.Context, s *sighting) (done bool, err error) {
	line, ended := b.log.attempt(s.id, s.attempt)
	if !ended {
		return false, nil
	}
	s.line, s.entry = line, nil
	for e, err := range b.client.Queue(ctx, relay.Filter{IDs: []relay.ID{relay.ID(s.id)}}, 0) {
		if err != nil {
			return false, b.whyEnded(ctx, err)
		}
		s.entry = &e
	}
	switch line.Status {
	case "deferred":
		done = s.entry != nil && s.entry.Attempts >= s.attempt && s.entry.QueueName != string(relay.StateActive)
	case "bounced":
		done = s.entry == nil && b.noticeTo(s.letter.from) != nil
	default:
		done = s.entry == nil
	}
	if !done {
		return false, nil
	}
	s.arrivals = b.world.Arrivals(s.letter.domain())[s.arrived:]
	s.tellings = tellingsOf(b.world, s.letter.domain()) - s.told
	if a := b.noticeTo(s.letter.from); a != nil {
		n, err := readNotice(a.Content)
		n.requireTLS = strings.Contains(a.Mail, " REQUIRETLS")
		s.notice, s.noticeErr = &n, err
	}
	return true, nil
}

// lost says what is missing when time is up.
func (b *labBench) lost(ctx context.Context, s *sighting) error {
	why := context.Cause(ctx)
	switch {
	case s.line.Status == "":
		return fmt.Errorf("%w: no attempt has ended", why)
	case s.line.Status == "bounced" && s.entry == nil:
		return fmt.Errorf("%w: the relay says bounced, but no bounce reached <%s>", why, s.letter.from)
	case s.entry == nil:
		return fmt.Errorf("%w: the relay says %s, but the message is not in its queue", why, s.line.Status)
	}
	return fmt.Errorf("%w: the relay says %s, but its queue has the message %s after %d attempts", why, s.line.Status, s.entry.QueueName, s.entry.Attempts)
}

func (b *labBench) whyEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// noticeTo returns the bounce that arrived for a sender, nil if none has.
func (b *labBench) noticeTo(from string) *lab.Arrival {
	for _, a := range b.world.Arrivals(labSender) {
		if a.From == "" && slices.Contains(a.To, from) {
			return &a
		}
	}
	return nil
}

// tellingsOf counts how often any MX host was told of a recipient in a domain.
func tellingsOf(w *lab.World, domain string) (n int) {
	for _, h := range w.MXHosts() {
		for _, line := range h.Commands() {
			line = strings.ToLower(line)
			if strings.HasPrefix(line, "rcpt ") && strings.Contains(line, "@"+domain+">") {
				n++
			}
		}
	}
	return n
}

func (l letter) domain() string { return l.to[strings.LastIndexByte(l.to, '@')+1:] }
