package stscache

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// policyPath is the well-known place (RFC 8461, Section 3.3; ledger STS-3.2-01).
const policyPath = "/.well-known/mta-sts.txt"

// dialLimit bounds one try at one address of a policy host, so that a dead one
// leaves time for the next.
const dialLimit = 10 * time.Second

// maxAddresses bounds the addresses of a policy host that are tried.
const maxAddresses = 8

// fetcher gets policy files. It follows no redirect, keeps nothing, sends no
// credentials and uses no proxy (ledger STS-3.3-06, -07, -19).
type fetcher struct {
	o      *Options
	client http.Client
}

func newFetcher(o *Options) *fetcher {
	f := &fetcher{o: o}
	f.client = http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            f.dial,
			TLSClientConfig:        &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 32 << 10,
		},
	}
	return f
}

// fetch gets the policy file of a domain. The error wraps ErrFetch, ErrWebPKI or
// ErrTooLarge.
func (f *fetcher) fetch(ctx context.Context, domain addr.Domain) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.o.FetchLimit, fmt.Errorf("no whole answer within %s", f.o.FetchLimit))
	defer cancel()
	traced, below := traceBelow(ctx)
	req, err := http.NewRequestWithContext(traced, http.MethodGet, PolicyURL(domain), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFetch, err)
	}
	req.Header.Set("User-Agent", "stsrelay")
	res, err := f.client.Do(req)
	if err != nil {
		return nil, fetchError(ctx, err)
	}
	defer res.Body.Close()
	if err := acceptable(res); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxPolicySize+1))
	if err == nil {
		err = ctx.Err() // an end of our own making
	}
	switch {
	case err != nil:
		return nil, fetchError(ctx, err)
	case maybeCut(res) && below.ended():
		return nil, fmt.Errorf("%w: the connection was cut, maybe within the policy file", ErrFetch)
	case len(body) > MaxPolicySize:
		return nil, ErrTooLarge
	}
	return body, nil
}

// Fetch gets the policy file of a domain as it is served, whatever is in it, for
// people to look at. It looks at no record and keeps nothing.
func (c *Cache) Fetch(ctx context.Context, domain addr.Domain) ([]byte, error) {
	return c.fetcher.fetch(ctx, domain)
}

// acceptable looks at what comes before the body.
func acceptable(res *http.Response) error {
	if res.StatusCode != http.StatusOK { // ledger STS-3.3-05
		return fmt.Errorf("%w: the policy host answered %d and not 200", ErrFetch, res.StatusCode)
	}
	if enc := res.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return fmt.Errorf("%w: the policy file came compressed, unasked", ErrFetch)
	}
	kind := res.Header.Get("Content-Type") // ledger STS-3.2-02, STS-3.2-03
	media, _, err := mime.ParseMediaType(kind)
	if media != "text/plain" && !(err != nil && strings.EqualFold(strings.TrimSpace(strings.SplitN(kind, ";", 2)[0]), "text/plain")) {
		return fmt.Errorf("%w: the media type is %.60q and not text/plain", ErrFetch, kind)
	}
	return nil
}

// fetchError tells a certificate from everything else.
func fetchError(ctx context.Context, err error) error {
	var (
		bad     *tls.CertificateVerificationError
		name    x509.HostnameError
		wrapped *url.Error
	)
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the URL says nothing new
	}
	if errors.As(err, &bad) || errors.As(err, &name) {
		return fmt.Errorf("%w: %w", ErrWebPKI, err)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("%w: %w", ErrFetch, err)
}

// dial connects to the policy host: to the addresses that DNS gives, if the
// guard lets them pass (ledger STS-3.3-20).
func (f *fetcher) dial(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	host, err := addr.ParseHost(name)
	if err != nil {
		return nil, err
	}
	answer, err := f.o.Resolver.Addresses(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("looking up the addresses of %s: %w", host, err)
	}
	var fail error
	for _, ip := range answer.Records[:min(len(answer.Records), maxAddresses)] {
		c, err := f.dialOne(ctx, network, ip, port)
		if err == nil {
			return &rawConn{Conn: c}, nil
		}
		fail = err
	}
	if fail == nil {
		fail = fmt.Errorf("%s has no address", host)
	}
	return nil, fail
}

func (f *fetcher) dialOne(ctx context.Context, network string, ip netip.Addr, port string) (net.Conn, error) {
	if err := f.o.Guard.Check(ip); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	return f.o.Dialer.DialContext(ctx, network, net.JoinHostPort(ip.String(), port))
}
