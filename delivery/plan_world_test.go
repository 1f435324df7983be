package delivery

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
)

// A planWorld is the DNS and the policies that a Plan sees, from tables, and
// notes what it was asked.
type planWorld struct {
	mx        map[string][]resolver.MX
	mxErr     map[string]error
	secure    bool
	canonical string // where the CNAMEs of every domain end; "": there are none
	ips       map[string][]netip.Addr
	ipErr     map[string]error
	policy    map[string]stscache.Status
	zone      map[string]zoneAnswer // what is not in mx and ips, by "TLSA mx.example" or "CNAME mx.example"
	signed    map[string]bool       // hosts whose addresses are secure
	alias     map[string][]string   // of hosts: the names that their CNAMEs lead to
	enter     func(question string) // called before each answer

	mu    sync.Mutex
	asked []string
}

func (w *planWorld) note(question string) {
	if w.enter != nil {
		w.enter(question)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, question)
}

// questions are those that begin with one of the prefixes, in order.
func (w *planWorld) questions(prefixes ...string) (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range w.asked {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(q, p) }) {
			list = append(list, q)
		}
	}
	return list
}

func (w *planWorld) MX(_ context.Context, d addr.Domain) (resolver.Answer[resolver.MX], error) {
	w.note("MX " + d.String())
	return resolver.Answer[resolver.MX]{Records: w.mx[d.String()], Secure: w.secure, Canonical: cmp.Or(w.canonical, d.String())}, w.mxErr[d.String()]
}

func (w *planWorld) Addresses(_ context.Context, h addr.Host) (resolver.Addresses, error) {
	w.note("A " + h.String())
	a := resolver.Addresses{Answer: resolver.Answer[netip.Addr]{Records: w.ips[h.String()], Secure: w.signed[h.String()], Canonical: h.String()}}
	for _, to := range w.alias[h.String()] {
		a.Links = append(a.Links, resolver.Link{From: a.Canonical, To: to, Secure: a.Secure})
		a.Canonical = to
	}
	return a, w.ipErr[h.String()]
}

// A zoneAnswer is one more RRset.
type zoneAnswer struct {
	tlsa    []resolver.TLSA
	secure  bool
	expires time.Time
	err     error
}

func (w *planWorld) TLSA(_ context.Context, port uint16, base addr.Host) (resolver.Answer[resolver.TLSA], error) {
	name := fmt.Sprintf("_%d._tcp.%s", port, base)
	w.note("TLSA " + name)
	a := w.zone["TLSA "+name]
	return resolver.Answer[resolver.TLSA]{Records: a.tlsa, Secure: a.secure, Expires: a.expires}, a.err
}

func (w *planWorld) CNAME(_ context.Context, name string) (resolver.Answer[string], error) {
	w.note("CNAME " + name)
	a := w.zone["CNAME "+name]
	return resolver.Answer[string]{Secure: a.secure}, a.err
}

func (w *planWorld) Lookup(ctx context.Context, d addr.Domain) stscache.Status {
	w.note("policy " + d.String())
	return w.status(ctx, d)
}

func (w *planWorld) Refresh(ctx context.Context, d addr.Domain) stscache.Status {
	w.note("newer policy " + d.String())
	return w.status(ctx, d)
}

func (w *planWorld) status(ctx context.Context, d addr.Domain) stscache.Status {
	if ctx.Err() != nil {
		return stscache.Status{Err: fmt.Errorf("%w: %w", stscache.ErrFetch, ctx.Err())}
	}
	st, ok := w.policy[d.String()]
	if !ok {
		st.Err = stscache.ErrNoRecord
	}
	return st
}

func (w *planWorld) client(change ...func(*Options)) *Client {
	o := Options{Resolver: w, Policies: w, IPv4: true, IPv6: true, DiscoveryFailureGrace: 10 * time.Minute,
		Guard: network.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}}}
	for _, c := range change {
		c(&o)
	}
	return &Client{options: o, reach: newReach()}
}
