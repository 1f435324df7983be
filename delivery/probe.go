package delivery

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// A Finding is what one address of one MX host showed to Probe.
type Finding struct {
	Host     int      // index in Plan.Hosts
	Decision Decision // its Skip is mere information here
	Addr     netip.AddrPort
	Name     string        // by which the server greeted us, cleaned
	Offers   Offers        // of its last EHLO
	Evidence Evidence      // zero when Err is set before TLS
	Verdict  Verdict       // what a message would have met; meaningless with Err
	Err      *Error        // why the server could not be talked to, nil if it could
	Took     time.Duration // dial to the end of hello
}

// Offers are the extensions that matter to delivery.
type Offers struct {
	Pipelining, EightBit, UTF8, RequireTLS bool
	Size                                   int64 // limit, 0 for none declared
}

// Probe contacts every address of every host of p as Deliver would for a
// message with the given Demand, as far as the verdict, and leaves with QUIT.
// It never says MAIL. Hosts that the Decision skips are contacted too: what
// they show is worth knowing. Findings are in the order of p.
func (c *Client) Probe(ctx context.Context, p Plan, demand Demand) []Finding {
	course := &course{Plan: p, sites: map[siteKey]*site{}}
	found := make([][]Finding, len(p.Hosts))
	var hosts sync.WaitGroup
	for i := range p.Hosts {
		s := course.site(i, demand)
		hosts.Go(func() { found[i] = c.probe(ctx, s) })
	}
	hosts.Wait()
	var all []Finding
	for _, f := range found {
		all = append(all, f...)
	}
	return all
}

// probe contacts one address of s after the other.
func (c *Client) probe(ctx context.Context, s *site) []Finding {
	host := s.key().host
	var all []Finding
	for _, a := range s.addrs {
		f := Finding{Host: s.index, Decision: s.decision, Addr: a}
		never := func(*conn) bool { return false }
		if _, err := c.pool.acquire(ctx, want{key: s.key(), use: never}); err != nil {
			f.Err = ioError(ctx, StagePlan, err)
			return append(all, f)
		}
		f.see(c.visit(ctx, s, a, false))
		c.pool.release(host)
		all = append(all, f)
	}
	return all
}

// see notes what a connection showed, and ends it.
func (f *Finding) see(k *conn, err *Error) {
	f.Err = err
	if k == nil {
		return
	}
	defer k.quit()
	x := k.ext
	f.Name, f.Evidence, f.Took = k.name, k.evidence, k.setup
	f.Offers = Offers{Pipelining: x.pipelining, EightBit: x.eightBit, UTF8: x.utf8, RequireTLS: x.requireTLS, Size: x.sizeLimit}
	f.Verdict = f.Decision.Judge(k.evidence)
}
