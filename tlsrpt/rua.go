package tlsrpt

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"stsrelay/internal/addr"
)

// A RUA is one destination of reports: a mailbox, or a URL of scheme https.
// The zero value is none.
type RUA struct {
	text    string
	mailbox addr.Address
	url     *url.URL
}

// String is the URI as it was published, with its scheme in lower case.
func (r RUA) String() string { return r.text }

// Mailbox is where a report goes by mail; null for https.
func (r RUA) Mailbox() addr.Address { return r.mailbox }

// URL is where a report is posted to; nil for mailto. It is not to be changed.
func (r RUA) URL() *url.URL { return r.url }

// Host is the destination's domain or host name, in lower case.
func (r RUA) Host() string {
	if r.url != nil {
		return strings.ToLower(r.url.Hostname())
	}
	d, _ := r.mailbox.Domain()
	return d.String()
}

// maxURI bounds a URI, in octets.
const maxURI = 2048

// ParseRUA reads one tlsrpt-uri (RFC 8460, Section 3). Only mailto and https
// are destinations (ledger RPT-3-04), and a raw "!", as of DMARC's size limits,
// makes a URI invalid (ledger RPT-3-06).
func ParseRUA(s string) (RUA, error) {
	if len(s) > maxURI {
		return RUA{}, fmt.Errorf("the URI is longer than %d octets", maxURI)
	}
	if i := strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`!,;"<>\^{|}`+"`", c) }); i >= 0 {
		return RUA{}, fmt.Errorf("%q must be percent-encoded in a URI", firstRune(s[i:]))
	}
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return RUA{}, errors.New("no scheme: an address needs \"mailto:\" before it")
	}
	switch scheme = strings.ToLower(scheme); scheme {
	case "mailto":
		a, err := parseMailto(rest)
		return RUA{text: scheme + ":" + rest, mailbox: a}, err
	case "https":
		u, err := parseHTTPS(scheme + ":" + rest)
		return RUA{text: scheme + ":" + rest, url: u}, err
	}
	return RUA{}, fmt.Errorf("scheme %q is neither mailto nor https", Clean(scheme))
}

func firstRune(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return s[:n]
}

// parseMailto reads the addr-spec of a mailto URI (RFC 6068, Section 2). Header
// fields behind "?" are ignored. One mailbox is a destination: what looks like
// two of them, joined by an encoded comma, is refused (ledger RPT-3-14).
func parseMailto(s string) (addr.Address, error) {
	s, _, _ = strings.Cut(s, "?")
	s, _, _ = strings.Cut(s, "#")
	spec, err := url.PathUnescape(s) // "+" stays "+"
	if err != nil {
		return addr.Address{}, errors.New("a \"%\" that encodes nothing")
	}
	at := strings.LastIndexByte(spec, '@')
	if at <= 0 {
		return addr.Address{}, errors.New("no address")
	}
	local, name := spec[:at], spec[at+1:]
	if strings.Contains(local, "@") && strings.ContainsAny(local, ",;") {
		return addr.Address{}, errors.New("more than one address in a mailto")
	}
	domain, err := addr.ParseDomain(name)
	if err != nil {
		return addr.Address{}, fmt.Errorf("the address has no domain that mail can go to: %w", err)
	}
	a, err := addr.ParseAddress(local + "@" + domain.String())
	if err != nil {
		a, err = addr.ParseAddress(addr.Quote(local) + "@" + domain.String())
	}
	if err != nil {
		return addr.Address{}, fmt.Errorf("no address: %w", err)
	}
	return a, nil
}

// parseHTTPS reads a URL. It is kept as it was published but for its fragment,
// which is not sent (ledger RPT-5.4-01).
func parseHTTPS(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" {
		return nil, errors.New("no URL")
	}
	u.Fragment, u.RawFragment = "", ""
	if u.User != nil {
		return nil, errors.New("a URL with a user name")
	}
	host := u.Hostname()
	_, herr := addr.ParseHost(host)
	_, ierr := netip.ParseAddr(host)
	if herr != nil && (ierr != nil || strings.Contains(host, "%")) {
		return nil, errors.New("a URL without a host name")
	}
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, errors.New("a URL with a port that is none")
		}
	}
	return u, nil
}
