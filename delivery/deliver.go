package delivery

import (
	"context"
	"errors"
	"slices"
	"time"
)

// planLife bounds how long one Plan is followed: a lane that never runs dry
// must still heed the policy current now (ledger X-11). DNS and policies are
// cached below, so that asking again costs little.
const planLife = time.Minute

// Deliver moves what s has to d, one message after the other, over one
// connection at a time and as few as it can. It returns nil when s has nothing
// more, an *Error when the destination as a whole could not be used (the job in
// hand has had Done with it, s keeps the rest), and the error of ctx when that
// ended. Each Job drawn from s has Done exactly once, before Deliver returns.
// Several calls for one destination may run at once.
func (c *Client) Deliver(ctx context.Context, d Destination, s Source) error {
	l := &lane{Client: c, destination: d, source: s}
	err := l.run(ctx)
	l.abandon(ctx)
	if e := l.unusable; e != nil && ctx.Err() == nil {
		return e
	}
	return err
}

// A lane is one Deliver call.
type lane struct {
	*Client
	destination Destination
	source      Source
	course      *course
	queue       []*task // drawn and unfinished: nothing new is drawn before they had their turn
	unusable    *Error  // the destination is: nothing is drawn any more
}

// A course is a Plan under way. Tasks keep theirs when the lane makes a new one.
type course struct {
	Plan
	made  time.Time
	final bool // a newer policy was looked for (ledger STS-5-04)
	sites map[siteKey]*site
}

// old reports whether the Plan is to be made anew: TLSA records are not kept
// beyond their TTL (ledger TLSA-8.2-01).
func (c *course) old() bool {
	return time.Since(c.made) > planLife || !c.expires.IsZero() && time.Now().After(c.expires)
}

type siteKey struct {
	host   int
	demand Demand
}

func (l *lane) run(ctx context.Context) error {
	for l.unusable == nil {
		t := l.take(ctx)
		if t == nil {
			break
		}
		if err := l.steer(ctx, t); err != nil {
			t.note(t.left(), Outcome{Err: err, MX: err.MX})
		}
		for t.course != nil && ctx.Err() == nil && !t.done() {
			s, who := t.turn()
			if s == nil {
				break
			}
			if c := l.connect(ctx, t, s, who); c != nil {
				l.carry(ctx, c, s, t, who)
			}
		}
		l.finish(ctx, t)
	}
	return ctx.Err()
}

// take returns the task that has waited longest, else a new one, else nil.
func (l *lane) take(ctx context.Context) *task {
	if len(l.queue) > 0 {
		t := l.queue[0]
		l.queue = slices.Delete(l.queue, 0, 1)
		return t
	}
	if ctx.Err() != nil {
		return nil
	}
	j, ok := l.source.Next(ctx)
	if !ok {
		return nil
	}
	return newTask(j)
}

// steer gives t its course: the lane's, unless that is old, or t needs one for
// which a newer policy was looked for.
func (l *lane) steer(ctx context.Context, t *task) *Error {
	if t.course != nil {
		return nil
	}
	if c := l.course; c == nil || c.old() || t.Final && !c.final {
		if err := l.replan(ctx, t); err != nil {
			return err
		}
	}
	t.course = l.course
	return nil
}

// finish gives t back, once, and learns from it whether the destination is
// unusable.
func (l *lane) finish(ctx context.Context, t *task) {
	if t.finished {
		return
	}
	t.finished = true
	t.settleAll(ctx)
	l.reach.ended(l.destination.NextHop, t.out)
	if l.unusable == nil {
		l.unusable = t.verdict()
	}
	l.source.Done(t.Job, t.attempt())
}

// abandon gives back what was drawn and had no turn.
func (l *lane) abandon(ctx context.Context) {
	for _, t := range l.queue {
		if e := l.unusable; e != nil {
			t.note(t.left(), Outcome{Err: e, MX: e.MX})
		}
		l.finish(ctx, t)
	}
	l.queue = nil
}

// carry moves t over c, and then, for as long as t and c allow, what the Source
// has. The content of one message and the envelope of the next share a flight.
// Tasks that want another host stay in the lane's queue, t with the caller.
func (l *lane) carry(ctx context.Context, c *conn, s *site, t *task, who []int) {
	defer func() { l.pool.park(c) }()
	c.detour = t.spoken || s.only4
	x := l.begin(c, s, t, who)
	if x == nil {
		x = l.follow(ctx, c, s, nil, t)
	}
	if x != nil {
		x.send(c) // what goes wrong is heard in envelope
	}
	for x != nil {
		ready, err := x.envelope(c)
		var next *transaction
		if ready {
			next = l.follow(ctx, c, s, x, t)
			err = x.final(c, x.content(c, next))
		}
		x.close()
		if err == errStale {
			x.retry(s)
			x.fresh = true
		}
		if err != nil || c.broken {
			l.putBack(c, next, x, err)
			l.leave(ctx, x.task, t)
			if next != nil {
				l.leave(ctx, next.task, t)
			}
			return
		}
		if next == nil || next.task != x.task {
			l.leave(ctx, x.task, t)
		}
		if next == nil { // one may have come in the meantime
			next = l.follow(ctx, c, s, x, t)
		}
		if next != nil && next.began.IsZero() {
			next.send(c)
		}
		x = next
	}
}

// begin prepares the transaction of t over c for who, or notes why this host
// cannot have it.
func (l *lane) begin(c *conn, s *site, t *task, who []int) *transaction {
	if !s.only4 {
		t.next = s.index + 1
	}
	x := &transaction{task: t, site: s, who: who}
	if c.messages == 0 {
		x.setup = c.setup
	}
	if !x.suits(c) {
		return nil
	}
	body, err := t.Open()
	if err != nil {
		e := c.ownFault(StageContent, err)
		for _, i := range x.who {
			t.out[i], t.settled[i] = Outcome{Err: e}, true
		}
		return nil
	}
	x.body = body
	if n := c.rcptMax; n > 0 && len(x.who) > n {
		x.who, x.rest = x.who[:n:n], x.who[n:]
	}
	return x
}

// follow returns the next transaction for c: more recipients of x, else the
// Source's next job, if Judge allows c for it (ledger X-11). It returns nil
// when there is none, or when c must be left first: since some task waits for
// another host, the plan is old, or c has carried enough.
func (l *lane) follow(ctx context.Context, c *conn, s *site, x *transaction, t *task) *transaction {
	if x != nil && len(x.rest) > 0 {
		if c.messages >= c.limit() {
			x.retry(s)
			return nil
		}
		rest := x.rest
		x.rest = nil
		return l.begin(c, x.site, x.task, rest)
	}
	for l.mayDraw(ctx, c, s, x, t) {
		j, ok := l.source.Next(ctx)
		if !ok {
			return nil
		}
		n := newTask(j)
		if n.Final && !t.course.final {
			l.queue = append(l.queue, n)
			return nil
		}
		n.course = t.course
		ns := t.course.site(s.index, n.Demand)
		if !l.allows(c, ns, n) {
			n.course = nil
			l.queue = append(l.queue, n)
			return nil
		}
		if nx := l.begin(c, ns, n, n.left()); nx != nil {
			return nx
		}
		l.leave(ctx, n, t)
	}
	return nil
}

// allows asks Judge whether the connection that carries this course may carry
// n too, and books its session if n's domain has none of it yet.
func (l *lane) allows(c *conn, s *site, n *task) bool {
	if s.decision.Skip != nil {
		return false
	}
	if c.judged == s && !c.quiet { // nothing has changed since
		return true
	}
	v := s.decision.Judge(c.evidence)
	if v.Proceed {
		c.judged = s
		l.book(n, s, c, v.Results)
	}
	return v.Proceed
}

// mayDraw reports whether the Source may be asked for a job that c, at its host
// s, will carry behind x. A host that t came to only since a better one refused
// it carries no others.
func (l *lane) mayDraw(ctx context.Context, c *conn, s *site, x *transaction, t *task) bool {
	return ctx.Err() == nil && l.unusable == nil && len(l.queue) == 0 && !c.detour &&
		c.messages < c.limit() && !t.course.old() &&
		(x == nil || x.willBeDone()) && (x != nil && x.task == t || t.done())
}

// putBack takes back the transaction that was to follow x when err ended the
// connection under x. More recipients of x share its fate; another task has
// not: it tries the host once more, and if its envelope was on the way already,
// over a new connection.
func (l *lane) putBack(c *conn, next, x *transaction, err error) {
	if next == nil {
		return
	}
	next.close()
	if e := (*Error)(nil); next.task == x.task && errors.As(err, &e) {
		o := next.outcome(c, e)
		o.Delay.Transmit = 0
		next.note(slices.Concat(next.who, next.rest), o)
		return
	}
	next.retry(x.site)
	next.fresh = !next.began.IsZero()
}

// leave ends the work on n: it is finished, or waits for another host, t in
// the hands of the caller.
func (l *lane) leave(ctx context.Context, n, t *task) {
	switch {
	case n.done():
		l.finish(ctx, n)
	case n != t && !slices.Contains(l.queue, n):
		l.queue = append(l.queue, n)
	}
}
