package resolver

import (
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

const (
	maxLinks = 16 // CNAMEs in one chain; BIND and Unbound stop at 16 and 11

	// RFC 8767, Section 4, and RFC 2308, Section 5: what longer times are cut to.
	maxTTL         = 7 * 24 * time.Hour
	maxNegativeTTL = 3 * time.Hour
)

// A chain is what the replies so far say about a question. Pure: add is given
// the reply and the time.
type chain struct {
	qtype   uint16
	name    string // the name that is asked next, or whose records these are
	links   []Link
	records []dns.RR
	secure  bool // every reply so far was
	ede     string
	expires time.Time // zero: nothing learned yet
	size    int
}

func newChain(q question) chain {
	return chain{qtype: q.qtype, name: q.name, secure: true}
}

// add reads the reply to a question for ch.name. More says that the reply ends
// in a CNAME whose target must be asked for.
func (ch *chain) add(m *dns.Msg, secure bool, now time.Time) (more bool, err error) {
	ch.secure = ch.secure && secure // one insecure link spoils all after it (ledger DANE-2.1.3-02)
	ch.size += m.Len()
	if ede, _ := extendedError(m); ede != "" {
		ch.ede = ede
	}
	passed := len(ch.links)
	for {
		var target string
		ch.records, target, err = ch.at(m.Answer, now)
		if err != nil || len(ch.records) > 0 {
			return false, err
		}
		if target == "" {
			break
		}
		if err := ch.follow(target); err != nil {
			return false, err
		}
	}
	keep, denied := ch.denial(m)
	if m.Rcode == dns.RcodeSuccess && !denied && len(ch.links) > passed {
		return true, nil
	}
	ch.until(now, keep)
	if m.Rcode == dns.RcodeNameError {
		// With CNAMEs the code speaks of the last name (RFC 6604, Section 3).
		return false, noSuch(question{ch.name, ch.qtype}, "NXDOMAIN")
	}
	return false, nil
}

// at finds what the answer section says about ch.name: records of the asked
// type, or else the target of its CNAME. Whatever belongs to other names,
// classes or types is ignored.
func (ch *chain) at(answer []dns.RR, now time.Time) (records []dns.RR, target string, err error) {
	for _, rr := range answer {
		h := rr.Header()
		if h.Class != dns.ClassINET || lower(h.Name) != ch.name {
			continue
		}
		cname, isCNAME := rr.(*dns.CNAME)
		switch {
		case h.Rrtype == ch.qtype:
			records = append(records, rr)
		case isCNAME && h.Rdlength < 1:
			return nil, "", errMalformed
		case isCNAME && target != "" && target != lower(cname.Target):
			return nil, "", fmt.Errorf("%s has more than one CNAME", bare(ch.name))
		case isCNAME:
			target = lower(cname.Target)
		default:
			continue
		}
		ch.until(now, min(seconds(h.Ttl), maxTTL))
	}
	return records, target, nil
}

// follow goes on to the target of a CNAME.
func (ch *chain) follow(target string) error {
	if len(ch.links) == maxLinks {
		return fmt.Errorf("more than %d CNAMEs in a row", maxLinks)
	}
	l := Link{From: bare(ch.name), To: bare(target), Secure: ch.secure}
	ch.links = append(ch.links, l)
	ch.name = target
	for _, passed := range ch.links {
		if passed.From == l.To {
			return fmt.Errorf("CNAME loop at %s", l.To)
		}
	}
	return nil
}

// denial reads the SOA record that comes with a denial. Keep is the smaller of
// the SOA's TTL and its MINIMUM (RFC 2308, Section 5), 0 without one: then the
// denial is not cached. Denied is false when none speaks of ch.name; one from
// elsewhere may speak of the first link only.
func (ch *chain) denial(m *dns.Msg) (keep time.Duration, denied bool) {
	for _, rr := range m.Ns {
		soa, ok := rr.(*dns.SOA)
		if ok && soa.Hdr.Class == dns.ClassINET && dns.IsSubDomain(lower(soa.Hdr.Name), ch.name) {
			return min(seconds(soa.Hdr.Ttl), seconds(soa.Minttl), maxNegativeTTL), true
		}
	}
	return 0, false
}

// until makes the chain's life end no later than after d.
func (ch *chain) until(now time.Time, d time.Duration) {
	if t := now.Add(d); ch.expires.IsZero() || t.Before(ch.expires) {
		ch.expires = t
	}
}

// seconds reads a TTL: one with the high bit set counts as zero (RFC 2181,
// Section 8).
func seconds(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

var (
	errSERVFAIL = errors.New("SERVFAIL")
	errReferral = errors.New("a referral instead of an answer: the server does not recurse")
)

// usable says why a reply that matches the question is still no answer.
func usable(m *dns.Msg) error {
	switch m.Rcode {
	case dns.RcodeSuccess:
	case dns.RcodeNameError:
		return nil
	default:
		err := errors.New(rcodeName(m))
		if m.Rcode == dns.RcodeServerFailure {
			err = errSERVFAIL
		}
		if ede, _ := extendedError(m); ede != "" {
			return fmt.Errorf("%w (%s)", err, ede)
		}
		return err
	}
	if len(m.Answer) > 0 || m.Authoritative || m.RecursionAvailable {
		return nil
	}
	// RFC 2308, Section 2.2: NS without SOA is a referral, not NODATA. Taken for
	// NODATA it would send mail to the domain's own address.
	var ns bool
	for _, rr := range m.Ns {
		switch rr.Header().Rrtype {
		case dns.TypeSOA:
			return nil
		case dns.TypeNS:
			ns = true
		}
	}
	if ns {
		return errReferral
	}
	return nil
}
