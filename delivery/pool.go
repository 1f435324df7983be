package delivery

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"stsrelay/internal/addr"
)

// maxMessages is how many transactions a connection carries before it is
// ended: some servers count, and none should be held for ever.
const maxMessages = 1000

// A poolKey is what must agree before Judge is even asked whether a kept
// connection may carry a message (ledger X-11). The source address and the
// hello name are the same for every connection of one Client.
type poolKey struct {
	route addr.NextHop // the operator's explicit next hop; zero for hosts found by MX
	host  string       // MX host or address literal
	port  uint16
	sni   string
}

// A pool bounds the connections of a Client, in all and per host, and keeps
// those that may be used again. A connection counts from its dial to its close,
// kept or not. Waiting callers are served in the order in which they came,
// whenever one can be served.
type pool struct {
	max, perHost int
	idle         time.Duration
	wake         chan struct{} // something is kept where nothing was

	mu      sync.Mutex
	total   int
	open    map[string]int // by host
	leaving map[string]int // of open, those that are being ended
	kept    []*conn        // in the order of keptAt
	waiting []*waiter
	running bool           // nothing is kept outside run
	closing sync.WaitGroup // quits under way; added to under mu while running
}

// A want is what a lane asks of the pool.
type want struct {
	key poolKey
	use func(*conn) bool // Judge's word, and whatever else matters; must not block
}

type waiter struct {
	want
	got chan *conn // buffered; nil is leave to dial
}

func newPool(max, perHost int, idle time.Duration) *pool {
	return &pool{max: max, perHost: perHost, idle: idle, wake: make(chan struct{}, 1), open: map[string]int{}, leaving: map[string]int{}}
}

// acquire returns a kept connection that w.use accepts, or nil: leave to open
// a connection to w.key.host, to be given back by release. It waits for either
// and fails only with ctx.
func (p *pool) acquire(ctx context.Context, w want) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	self := &waiter{want: w, got: make(chan *conn, 1)}
	p.mu.Lock()
	p.waiting = append(p.waiting, self)
	p.serve()
	p.mu.Unlock()
	select {
	case c := <-self.got:
		return c, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.waiting, self)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 { // served at the same moment: give it back
		if c := <-self.got; c != nil {
			p.retire(c)
		} else {
			p.release(w.key.host)
		}
	}
	return nil, ctx.Err()
}

// serve gives every waiting caller what it can have now, and makes room for
// the others. Callers hold mu.
func (p *pool) serve() {
	if len(p.waiting) == 0 || p.total >= p.max && len(p.kept) == 0 {
		return
	}
	p.waiting = slices.DeleteFunc(p.waiting, p.grant)
	p.makeRoom()
}

// grant serves one caller if it can. Callers hold mu.
func (p *pool) grant(w *waiter) bool {
	for i, c := range slices.Backward(p.kept) { // the newest is the least likely to be dead
		if c.key == w.key && w.use(c) {
			p.kept = slices.Delete(p.kept, i, i+1)
			w.got <- c
			return true
		}
	}
	if !p.take(w.key.host) {
		return false
	}
	w.got <- nil
	return true
}

// take counts one more connection if there is room. Callers hold mu.
func (p *pool) take(host string) bool {
	if p.open[host] >= p.perHost || p.total >= p.max {
		return false
	}
	p.total++
	p.open[host]++
	return true
}

// spare is leave to open one more connection beside one of one's own, if it can
// be had at once: nobody waits for two.
func (p *pool) spare(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.take(host)
}

// makeRoom ends one kept connection for each caller that waits, the oldest
// that helps it, beyond those that are being ended already. Callers hold mu.
func (p *pool) makeRoom() {
	coming, all := maps.Clone(p.leaving), 0
	for _, n := range coming {
		all += n
	}
	for _, w := range p.waiting {
		if len(p.kept) == 0 {
			return
		}
		host := w.key.host
		switch full := p.open[host] >= p.perHost; {
		case full && coming[host] > 0:
			coming[host]--
			all--
		case !full && all > 0:
			all--
		default:
			p.evict(func(c *conn) bool { return !full || c.key.host == host })
		}
	}
}

// evict ends the oldest kept connection that fits, if there is one. Callers
// hold mu.
func (p *pool) evict(fits func(*conn) bool) {
	i := slices.IndexFunc(p.kept, fits)
	if i < 0 {
		return
	}
	c := p.kept[i]
	p.kept = slices.Delete(p.kept, i, i+1)
	p.quit(c)
}

// quit ends a connection in a goroutine that run waits for. Callers hold mu,
// and the pool is running or about to wait.
func (p *pool) quit(c *conn) {
	p.leaving[c.key.host]++
	p.closing.Go(func() {
		c.quit()
		p.left(c.key.host)
	})
}

// left is release after quit.
func (p *pool) left(host string) {
	p.mu.Lock()
	if p.leaving[host]--; p.leaving[host] == 0 {
		delete(p.leaving, host)
	}
	p.mu.Unlock()
	p.release(host)
}

// release gives back leave to open a connection, after its close.
func (p *pool) release(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total--
	if p.open[host]--; p.open[host] == 0 {
		delete(p.open, host)
	}
	p.serve()
}

// park keeps c for the next lane, or ends it when it cannot be used again.
func (p *pool) park(c *conn) {
	if c.broken || c.writing != nil || c.messages >= c.limit() || c.inClear {
		p.retire(c)
		return
	}
	p.mu.Lock()
	if !p.running {
		p.mu.Unlock()
		p.retire(c)
		return
	}
	defer p.mu.Unlock()
	if !c.detach() {
		p.quit(c)
		return
	}
	c.keptAt = time.Now()
	p.kept = append(p.kept, c)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	p.serve()
}

// retire ends c with QUIT: behind the caller's back while the pool runs, else
// before it returns.
func (p *pool) retire(c *conn) {
	p.mu.Lock()
	if p.running && !c.broken && c.detach() {
		p.quit(c)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	c.quit()
	p.release(c.key.host)
}

// run keeps connections until ctx ends, and closes those that waited for
// longer than idle. It returns when each has had its QUIT.
func (p *pool) run(ctx context.Context) {
	p.mu.Lock()
	p.running = true
	p.mu.Unlock()
	timer := time.NewTimer(p.idle)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Stop()
		if next, some := p.expire(time.Now()); some {
			timer.Reset(next)
		}
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-timer.C:
		}
	}
	p.mu.Lock()
	p.running = false
	for _, c := range p.kept {
		p.quit(c)
	}
	p.kept = nil
	p.mu.Unlock()
	p.closing.Wait()
}

// expire ends what was kept long enough, and tells when to look again.
func (p *pool) expire(now time.Time) (next time.Duration, some bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.kept) > 0 {
		if next = p.idle - now.Sub(p.kept[0].keptAt); next > 0 {
			return next, true
		}
		p.evict(func(*conn) bool { return true })
	}
	return 0, false
}
