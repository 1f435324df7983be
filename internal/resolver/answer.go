// Package resolver asks DNS, and says of each answer whether it was
// authenticated and by which way it came. It is a stub resolver over
// miekg/dns with what that library leaves to the caller: TCP on truncation,
// question check, context, retries over servers, EDNS0 with DO, unescaped TXT,
// and a TTL cache with negative caching (RFC 2308).
package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"stsrelay/internal/addr"
)

// An Answer is what DNS says about one name and type. No Records and a nil
// error is NODATA. With ErrNXDomain the other fields are set as well: a denial
// can be Secure (ledger DANE-2.1.1-04). Records are shared with the cache
// beyond their first level: never write through a pointer or slice in them.
type Answer[T any] struct {
	Records   []T
	Canonical string    // name at the end of the CNAME chain: the question's name if there was none
	Links     []Link    // the CNAMEs passed, in order
	Secure    bool      // AD from a resolver we trust: the answer and every link were validated
	EDE       string    // extended DNS error text for people (RFC 8914), usually ""
	Expires   time.Time // when this is asked anew: end of the shortest TTL passed, or of a failure's short life
}

// A Link is one CNAME on the way. An answer that is not Secure does not tell
// which of its links are (RFC 7672, Section 2.1.3): Secure is then false, and
// Client.CNAME at From tells.
type Link struct {
	From, To string // lower case, without trailing dot
	Secure   bool
}

// An MX is one MX record (RFC 5321, Section 5.1).
type MX struct {
	Preference uint16
	Host       addr.Host // zero for the null MX "." and for names no host can have
	Name       string    // as DNS gave it, printable, without trailing dot; "." for the null MX (RFC 7505)
}

// A TLSA is one TLSA record (RFC 6698, Section 2.1).
type TLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

func (t TLSA) String() string {
	return fmt.Sprintf("%d %d %d %X", t.Usage, t.Selector, t.Matching, t.Data)
}

// Addresses is the answer to an A and AAAA question pair: IPv6 first, each
// family in the resolver's order. A lookup fails only when no family gave an
// address and at least one failed; Failed then and otherwise tells of a family
// that could not be looked up. Secure speaks of the families that gave an
// address, or of all when none did.
type Addresses struct {
	Answer[netip.Addr]
	Failed error
}

// ErrNXDomain is wrapped by errors that say that the name does not exist.
var ErrNXDomain = errors.New("no such domain")

// A Bogus error says that DNSSEC validation failed at our resolver.
type Bogus struct {
	Name, Type string
	EDE        string // what the resolver said of it
}

func (e *Bogus) Error() string {
	return fmt.Sprintf("DNSSEC validation of %s %s failed: %s", e.Name, e.Type, e.EDE)
}

// A Failed error says that no answer could be had: a time-out, SERVFAIL,
// REFUSED, a malformed reply. It is temporary.
type Failed struct {
	Name, Type string
	Err        error
}

func (e *Failed) Error() string {
	return fmt.Sprintf("looking up %s %s: %v", e.Name, e.Type, e.Err)
}

func (e *Failed) Unwrap() error { return e.Err }
