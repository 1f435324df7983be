package resolver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// rounds is how often a server that stays silent is asked again.
const rounds = 3

// exchange asks the servers in turn until one gives an answer. A server that
// says no (SERVFAIL, REFUSED, a closed port) is not asked again, one that is
// silent is. Secure is AD from a server whose word on DNSSEC we take.
func (c *Client) exchange(ctx context.Context, q question) (m *dns.Msg, secure bool, err error) {
	list := c.servers.list(time.Now())
	said := make([]error, len(list)) // why each server gave no answer
	out := make([]bool, len(list))   // is not asked again
	held := false                    // untrusted servers are not asked
	for round := range rounds {
		for i, s := range list {
			if out[i] || held && !s.trusted || round > 0 && s.down {
				continue
			}
			m, said[i] = c.try(ctx, s, q)
			if said[i] == nil {
				if ede, bogus := extendedError(m); bogus && m.Rcode == dns.RcodeServerFailure {
					return nil, false, &Bogus{Name: bare(q.name), Type: dns.TypeToString[q.qtype], EDE: ede}
				}
				if said[i] = usable(m); said[i] == nil {
					return m, m.AuthenticatedData && s.trusted, nil
				}
			}
			if ctx.Err() != nil {
				return nil, false, c.failed(q, because(list, said))
			}
			held = held || s.trusted && doubtful(said[i])
			out[i] = !errors.Is(said[i], errSilent)
		}
	}
	return nil, false, c.failed(q, because(list, said))
}

// doubtful reports whether a trusted server's failure may be an attacker's
// work: SERVFAIL can mean that validation failed, and silence or rubbish that
// the zone's servers are kept from it. An answer that nobody validates must not
// take the place of that one, or DANE could be switched off by dropping packets.
// A server that is not there or refuses us is another matter.
func doubtful(err error) bool {
	return errors.Is(err, errSERVFAIL) || errors.Is(err, errSilent) || errors.Is(err, errMalformed)
}

// because joins what the servers said into one line.
func because(list []server, said []error) error {
	var e serversError
	for i, err := range said {
		if err != nil {
			e = append(e, fmt.Errorf("%s: %w", list[i].address, err))
		}
	}
	return e
}

type serversError []error

func (e serversError) Error() string {
	s := make([]string, len(e))
	for i, err := range e {
		s[i] = err.Error()
	}
	return strings.Join(s, "; ")
}

func (e serversError) Unwrap() []error { return e }

// try asks one server by UDP, and by TCP when the reply was cut short: a
// truncated set of records is never used.
func (c *Client) try(ctx context.Context, s server, q question) (*dns.Msg, error) {
	start := time.Now()
	m, err := c.ask(ctx, "udp", s, q)
	if err == nil && m.Truncated {
		if m, err = c.ask(ctx, "tcp", s, q); err == nil && m.Truncated {
			m, err = nil, errors.New("truncated reply over TCP")
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, ctx.Err() // says nothing about the server
	}
	c.servers.note(s.address, err, time.Now())
	if c.options.Observe != nil {
		c.options.Observe(Observation{
			Server: s.address, Type: dns.TypeToString[q.qtype], Result: result(m, err), Took: time.Since(start),
		})
	}
	return m, err
}

func result(m *dns.Msg, err error) string {
	switch {
	case errors.Is(err, errSilent):
		return "timeout"
	case err != nil:
		return "error"
	}
	return rcodeName(m)
}

func rcodeName(m *dns.Msg) string {
	if s, ok := dns.RcodeToString[m.Rcode]; ok {
		return s
	}
	return fmt.Sprintf("RCODE%d", m.Rcode)
}

// extendedError returns the reply's extended errors as text for people, and
// whether one of them says that DNSSEC validation failed (RFC 8914).
func extendedError(m *dns.Msg) (text string, bogus bool) {
	opt := m.IsEdns0()
	if opt == nil {
		return "", false
	}
	var said []string
	for _, o := range opt.Option {
		e, ok := o.(*dns.EDNS0_EDE)
		if !ok || len(said) == 4 {
			continue
		}
		bogus = bogus || saysBogus(e.InfoCode)
		s, known := dns.ExtendedErrorCodeToString[e.InfoCode]
		if !known {
			s = fmt.Sprintf("extended error %d", e.InfoCode)
		}
		if e.ExtraText != "" {
			s += ": " + printable(e.ExtraText, 200)
		}
		said = append(said, s)
	}
	return strings.Join(said, "; "), bogus
}

func saysBogus(code uint16) bool {
	return code >= dns.ExtendedErrorCodeDNSBogus && code <= dns.ExtendedErrorCodeNSECMissing ||
		code == dns.ExtendedErrorCodeSignatureExpiredBeforeValid
}

// printable makes foreign text fit for a log line or a bounce: ASCII, at most
// max bytes.
func printable(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), max)]
}
