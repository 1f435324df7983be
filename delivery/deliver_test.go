package delivery

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/network"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
	"stsrelay/tlsrpt"
)

// A world is everything a Client sees: DNS and policies from tables, MX hosts
// on loopback, at addresses of their own.
type world struct {
	t        testing.TB
	ca       *fakeCA
	dialer   *fakeDialer
	mx       map[string][]resolver.MX // by domain
	ips      map[string][]netip.Addr  // by host
	statuses map[string]stscache.Status
	signed   map[string]bool            // domains and hosts whose MX records and addresses are secure
	tlsa     map[string][]resolver.TLSA // secure, by host
	tlsaErr  map[string]error
	options  Options
}

func newWorld(t testing.TB) *world {
	w := newBareWorld(t)
	w.ca = newCA(t)
	w.options.Roots = w.ca.pool
	return w
}

// newBareWorld is a world without certificates, which take long to make.
func newBareWorld(t testing.TB) *world {
	w := &world{
		t: t, dialer: &fakeDialer{to: map[string]*fakeMX{}, dials: map[string]int{}},
		mx: map[string][]resolver.MX{}, ips: map[string][]netip.Addr{}, statuses: map[string]stscache.Status{},
		signed: map[string]bool{}, tlsa: map[string][]resolver.TLSA{}, tlsaErr: map[string]error{},
	}
	w.options = Options{
		Hostname: "relay.example", Resolver: w, Policies: w, Dialer: w.dialer,
		Guard: network.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}},
	}
	return w
}

func (w *world) MX(_ context.Context, d addr.Domain) (resolver.Answer[resolver.MX], error) {
	r, ok := w.mx[d.String()]
	if !ok {
		return resolver.Answer[resolver.MX]{}, resolver.ErrNXDomain
	}
	return resolver.Answer[resolver.MX]{Records: r, Canonical: d.String(), Secure: w.signed[d.String()]}, nil
}

func (w *world) Addresses(_ context.Context, h addr.Host) (resolver.Addresses, error) {
	ips, ok := w.ips[h.String()]
	if !ok {
		return resolver.Addresses{}, resolver.ErrNXDomain
	}
	return resolver.Addresses{Answer: resolver.Answer[netip.Addr]{Records: ips, Canonical: h.String(), Secure: w.signed[h.String()]}}, nil
}

func (w *world) TLSA(_ context.Context, _ uint16, base addr.Host) (resolver.Answer[resolver.TLSA], error) {
	name := base.String()
	return resolver.Answer[resolver.TLSA]{Records: w.tlsa[name], Secure: true, Expires: time.Now().Add(time.Hour)}, w.tlsaErr[name]
}

func (w *world) CNAME(context.Context, string) (resolver.Answer[string], error) {
	return resolver.Answer[string]{}, resolver.ErrNXDomain
}

func (w *world) Lookup(_ context.Context, d addr.Domain) stscache.Status {
	if s, ok := w.statuses[d.String()]; ok {
		return s
	}
	return stscache.Status{Err: stscache.ErrNoRecord}
}

func (w *world) Refresh(ctx context.Context, d addr.Domain) stscache.Status { return w.Lookup(ctx, d) }

// policy publishes a policy for domain, that names every host under example.
func (w *world) policy(domain string, mode stscache.Mode, mx ...stscache.Pattern) {
	w.statuses[domain] = stscache.Status{
		Policy: &stscache.Policy{Mode: mode, MaxAge: time.Hour, MX: mx}, ID: "a1",
		Lines: []string{"version: STSv1", "mode: " + string(mode)}, Fetched: time.Now(), Expires: time.Now().Add(time.Hour),
	}
}

// host starts m as an MX of domain with the given preference and addresses.
func (w *world) host(domain string, preference uint16, m *fakeMX, ips ...string) *fakeMX {
	w.t.Helper()
	if m.ln == nil {
		m.start(w.t)
	}
	w.mx[domain] = append(w.mx[domain], resolver.MX{Preference: preference, Host: addr.MustHost(m.name), Name: m.name})
	w.ips[m.name] = nil
	for _, s := range ips {
		ip := netip.MustParseAddr(s)
		w.ips[m.name] = append(w.ips[m.name], ip)
		w.dialer.mu.Lock()
		w.dialer.to[netip.AddrPortFrom(ip, 25).String()] = m
		w.dialer.mu.Unlock()
	}
	return m
}

// dead adds an MX host nobody listens at.
func (w *world) dead(domain string, preference uint16, name, ip string) {
	w.mx[domain] = append(w.mx[domain], resolver.MX{Preference: preference, Host: addr.MustHost(name), Name: name})
	w.ips[name] = []netip.Addr{netip.MustParseAddr(ip)}
}

func (w *world) client() *Client {
	w.t.Helper()
	c, err := New(w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// running returns a client whose Run runs until the test ends.
func (w *world) running() *Client {
	w.t.Helper()
	c := w.client()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		if c.pool.total != 0 || len(c.pool.open) != 0 || len(c.pool.kept) != 0 {
			w.t.Errorf("connections are left: %d, %v", c.pool.total, c.pool.open)
		}
	})
	for { // until Run keeps connections
		c.pool.mu.Lock()
		r := c.pool.running
		c.pool.mu.Unlock()
		if r {
			return c
		}
		select {
		case err := <-ended:
			w.t.Fatal(err)
		default:
		}
	}
}

// A fakeSource hands out jobs and checks that each has Done once.
type fakeSource struct {
	t      testing.TB
	mu     sync.Mutex
	jobs   []Job
	out    map[string]Attempt
	order  []string
	taken  map[string]bool
	onDone func(id string)
}

func source(t testing.TB, jobs ...Job) *fakeSource {
	return &fakeSource{t: t, jobs: jobs, out: map[string]Attempt{}, taken: map[string]bool{}}
}

func (s *fakeSource) Next(context.Context) (Job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.jobs) == 0 {
		return Job{}, false
	}
	j := s.jobs[0]
	s.jobs = s.jobs[1:]
	s.taken[j.ID] = true
	return j, true
}

func (s *fakeSource) Done(j Job, a Attempt) {
	s.mu.Lock()
	_, twice := s.out[j.ID]
	if !s.taken[j.ID] || twice {
		s.t.Errorf("Done of %s, taken %v, done before %v", j.ID, s.taken[j.ID], twice)
	}
	if len(a.Outcomes) != len(j.To) {
		s.t.Errorf("%d outcomes for %d recipients of %s", len(a.Outcomes), len(j.To), j.ID)
	}
	s.out[j.ID] = a
	s.order = append(s.order, j.ID)
	f := s.onDone
	s.mu.Unlock()
	if f != nil {
		f(j.ID)
	}
}

// check says that all that was taken is done.
func (s *fakeSource) check() {
	s.t.Helper()
	for id := range s.taken {
		if _, ok := s.out[id]; !ok {
			s.t.Errorf("%s was taken and never done", id)
		}
	}
}

const content = "Subject: test\r\n\r\n.hello\r\n"

func job(id, text string, to ...string) Job {
	j := Job{ID: id, From: addr.MustAddress("sender@sender.example"), Size: int64(len(text))}
	for _, r := range to {
		j.To = append(j.To, Recipient{Address: addr.MustAddress(r)})
	}
	j.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader([]byte(text))), nil }
	j.Body8 = strings.ContainsFunc(text, func(r rune) bool { return r > 0x7f })
	return j
}

func to(domain string) Destination {
	return Destination{NextHop: addr.DomainHop(addr.MustDomain(domain))}
}

// deliver runs one Deliver and returns what became of the jobs.
func (w *world) deliver(c *Client, d string, jobs ...Job) (map[string]Attempt, error) {
	w.t.Helper()
	s := source(w.t, jobs...)
	err := c.Deliver(context.Background(), to(d), s)
	s.check()
	return s.out, err
}

var full = []string{"PIPELINING", "SIZE 10000000", "8BITMIME", "SMTPUTF8"}

func with(list []string, more ...string) []string { return append(slices.Clone(list), more...) }

// good is a well-behaved MX with a certificate for its name.
func (w *world) good(name string) *fakeMX {
	return &fakeMX{name: name, cert: w.ca.issue(w.t, name), plain: with(full, "STARTTLS"), secure: full}
}

// plainMX is one without STARTTLS.
func plainMX(name string, keywords ...string) *fakeMX { return &fakeMX{name: name, plain: keywords} }

// says makes a server answer lines that begin with the first of a pair with
// the second.
func (m *fakeMX) says(pairs ...string) *fakeMX {
	m.answer = func(_ *fakeConn, line string) string {
		for i := 0; i < len(pairs); i += 2 {
			if strings.HasPrefix(line, pairs[i]) {
				return pairs[i+1]
			}
		}
		return ""
	}
	return m
}

// verdict renders an outcome: "ok", "4.2.0 remote-reply".
func verdict(o Outcome) string {
	if o.Err == nil {
		return "ok"
	}
	e := o.Err
	return fmt.Sprintf("%d.%d.%d %s", e.Enhanced[0], e.Enhanced[1], e.Enhanced[2], e.Reason)
}

func verdicts(a Attempt) []string {
	var out []string
	for _, o := range a.Outcomes {
		out = append(out, verdict(o))
	}
	return out
}

func TestDeliver(t *testing.T) {
	t.Run("SMTP-3.3-02 SMTP-4.1.1.10-01 SIZE-6-01 STLS-4-01 STLS-4-05 one message over verified TLS, command by command", func(t *testing.T) {
		w := newWorld(t)
		m := w.host("a.example", 10, w.good("mx.a.example"), "127.1.0.1")
		w.policy("a.example", stscache.Enforce, "mx.a.example")
		out, err := w.deliver(w.client(), "a.example", job("1", content, "u@a.example"))
		if err != nil {
			t.Fatal(err)
		}
		o := out["1"].Outcomes[0]
		if o.Err != nil || o.MX.String() != "mx.a.example" || o.Addr.String() != "127.1.0.1:25" || o.Reply != "250 2.0.0 queued" ||
			o.TLS != "Verified TLSv1.3" || o.Policy != "sts:enforce id=a1" || o.Reused || o.Delay.Setup <= 0 || o.Delay.Transmit <= 0 {
			t.Errorf("outcome: %+v", o)
		}
		got := m.look()
		want := []string{
			"1 EHLO relay.example", "1 STARTTLS", "1T EHLO relay.example",
			"1T MAIL FROM:<sender@sender.example> SIZE=" + fmt.Sprint(len(content)), "1T RCPT TO:<u@a.example>", "1T DATA", "1 .", "1T QUIT",
		}
		if !slices.Equal(got.lines, want) {
			t.Errorf("SMTP-3.3-01 STLS-2-01 STLS-4.2-01 SIZE-5-01 transcript:\n%s", strings.Join(got.lines, "\n"))
		}
		if len(got.messages) != 1 || got.messages[0].data != content || !got.messages[0].tls {
			t.Errorf("messages: %+v", got.messages)
		}
		s := out["1"].Sessions
		if len(s) != 1 || s[0].Domain.String() != "a.example" || s[0].MX != "mx.a.example" || s[0].HELO != "mx.a.example" ||
			s[0].Receiver.String() != "127.1.0.1" || !s[0].Sender.IsLoopback() || len(s[0].Policies) != 1 ||
			s[0].Policies[0].Policy.Type != tlsrpt.STS || len(s[0].Policies[0].Failures) != 0 {
			t.Errorf("sessions: %+v", s)
		}
	})
}
