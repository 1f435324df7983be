package delivery

import (
	"context"
	"time"

	"stsrelay/tlsrpt"
)

// maxSessions is how many sessions may end in a temporary refusal before a
// recipient waits for the next attempt (ledger SMTP-5.1-15).
const maxSessions = 2

// A task is a Job under way: what became of each recipient so far, and which
// host is next.
type task struct {
	Job
	course   *course
	out      []Outcome // of every recipient
	settled  []bool    // no further host is tried
	sessions []int     // that ended in a temporary refusal
	reports  []tlsrpt.Session

	next   int   // index of the host to try next
	again  []int // refused over IPv6 by the host before next: once more over IPv4
	over4  []int // those of again that are having their turn
	fresh  bool  // a kept connection died under it: the next is a new one
	spoken bool  // some host heard its MAIL

	finished bool // Done was called
}

func newTask(j Job) *task {
	n := len(j.To)
	return &task{Job: j, out: make([]Outcome, n), settled: make([]bool, n), sessions: make([]int, n)}
}

// turn returns the host to try next and the recipients to try it for, or nil
// when no host is left for anybody.
func (t *task) turn() (*site, []int) {
	for _, i := range t.over4 { // IPv4 has spoken: what is refused now is refused
		t.settled[i] = true
	}
	t.over4 = nil
	if len(t.again) > 0 {
		t.over4, t.again = t.again, nil
		return t.course.site(t.next-1, t.Demand).over4(), t.over4
	}
	who := t.left()
	if len(who) == 0 || t.next >= len(t.course.Hosts) {
		return nil, nil
	}
	t.next++
	return t.course.site(t.next-1, t.Demand), who
}

// retry undoes a turn at s: the host is tried once more.
func (t *task) retry(s *site) {
	if s.only4 {
		t.again, t.over4 = t.over4, nil
		return
	}
	t.next = s.index
}

// left lists the recipients that may still be tried.
func (t *task) left() []int {
	var left []int
	for i, done := range t.settled {
		if !done {
			left = append(left, i)
		}
	}
	return left
}

func (t *task) done() bool {
	for _, done := range t.settled {
		if !done {
			return false
		}
	}
	return true
}

// note records for recipients that a host could not be used. It never covers
// what a host said of them.
func (t *task) note(who []int, o Outcome) {
	for _, i := range who {
		if t.out[i].Err == nil || graver(t.out[i].Err, o.Err) {
			t.out[i] = o
		}
	}
}

// graver reports whether next says more of a recipient than last, of two hosts
// that did not take it: a temporary failure before a permanent one, since the
// message may yet be delivered, then what got further; and of equals the first,
// by the more preferred host.
func graver(last, next *Error) bool {
	switch {
	case last.Remote && last.Stage >= StageMail:
		return false
	case last.Permanent != next.Permanent:
		return last.Permanent
	}
	return next.Stage > last.Stage
}

// taken records that the host took the message for recipient i.
func (t *task) taken(i int, o Outcome) { t.out[i], t.settled[i] = o, true }

// refused records what a host did to recipient i, and whether another is
// asked: none after a permanent answer, 421, a limit of rate or a greylisting
// (4.7.x), a message that may have been taken, or the second session (ledger
// SMTP-5.1-14, -15, SMTP-4.5.3.2-05).
func (t *task) refused(i int, o Outcome) {
	t.out[i] = o
	t.sessions[i]++
	e := o.Err
	t.settled[i] = e.Permanent || e.Code == 421 || e.Remote && e.Enhanced[1] == 7 || o.MayDup || t.sessions[i] >= maxSessions
}

// settleAll ends the attempt: what is undecided is decided by what is known.
func (t *task) settleAll(ctx context.Context) {
	for i := range t.out {
		if t.out[i].Err == nil && !t.settled[i] {
			what := "no host could be tried"
			if ctx.Err() != nil {
				what = "delivery was stopped before it was tried"
			}
			t.out[i].Err = NewError(StagePlan, LocalError, t.out[i].MX, what)
		}
		t.settled[i] = true
	}
}

// verdict returns the Error that makes the destination unusable for other
// messages too, or nil. What failed by a message's own demand says nothing of
// the others.
func (t *task) verdict() *Error {
	var first *Error
	for _, o := range t.out {
		switch {
		case o.Err == nil:
		case o.Err.Code == 421 && o.Err.Remote:
			return o.Err
		case first == nil:
			first = o.Err
		}
	}
	if first == nil || t.spoken || first.Reason == LocalError || !first.Destination() || t.Demand == Require && t.asked(first.Stage) {
		return nil
	}
	return first
}

// asked reports whether what t demands may have caused a failure at s. A plan
// that could not be made fails for all.
func (t *task) asked(s Stage) bool {
	return t.course != nil && (s == StagePlan || s == StageTLS || s == StagePolicy)
}

// attempt is what the Source hears.
func (t *task) attempt() Attempt { return Attempt{Outcomes: t.out, Sessions: t.reports} }

// since is time.Since without digits that mean nothing.
func since(t time.Time) time.Duration { return time.Since(t).Round(time.Microsecond) }
