package tlsrpt

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/network"
)

// An answer is what came of one POST.
type answer struct {
	Status     int
	RetryAfter time.Duration // asked for with 429 or 503
	Cert       error         // what is wrong with the server's certificate; the report was sent all the same
	Err        error         // there is no status
}

// A poster sends reports to https destinations (RFC 8460, Section 5.4).
type poster struct {
	Resolver Resolver
	Dialer   network.Dialer
	Guard    network.Guard
	Roots    *x509.CertPool
	Strict   bool          // a certificate that does not verify is a failure (ledger RPT-5.4-05)
	Limit    time.Duration // of one attempt
}

// Bounds of what an endpoint may answer.
const (
	maxAnswer       = 64 << 10
	maxAnswerHeader = 64 << 10
	maxAddresses    = 4 // tried for one attempt
)

// post sends one report. The gzip is the payload itself, not an encoding of it
// (ledger RPT-5.4-02, RPT-5.4-03); redirects are not followed (ledger
// RPT-5.4-06).
func (p poster) post(ctx context.Context, u *url.URL, payload []byte) (a answer) {
	ctx, stop := context.WithTimeout(ctx, p.Limit)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(payload))
	if err != nil {
		return answer{Err: err}
	}
	req.Header.Set("Content-Type", typeGzip)
	req.Header.Set("User-Agent", "stsrelay")
	cert := make(chan error, 1) // dialing may outlive this call
	t := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, hostPort string) (net.Conn, error) {
			return p.dial(ctx, hostPort, cert)
		},
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxAnswerHeader,
	}
	defer t.CloseIdleConnections()
	res, err := t.RoundTrip(req) // it follows no redirects, and knows no proxies
	if err != nil {
		a.Err = err
		return a
	}
	defer res.Body.Close()
	a.Status, a.Cert = res.StatusCode, <-cert
	if a.Status == http.StatusTooManyRequests || a.Status == http.StatusServiceUnavailable {
		a.RetryAfter = retryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // the status was the answer
	return a
}

// dial connects to one of a host's addresses, those that the Guard lets us go
// to, and does the handshake.
func (p poster) dial(ctx context.Context, hostPort string, cert chan<- error) (net.Conn, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	ips, err := p.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, ip := range ips[:min(len(ips), maxAddresses)] {
		if err := p.Guard.Check(ip); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", host, err))
			continue
		}
		c, err := p.Dialer.DialContext(ctx, "tcp", net.JoinHostPort(ip.Unmap().String(), port))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		return p.handshake(ctx, c, host, cert)
	}
	return nil, errors.Join(errs...)
}

func (p poster) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	h, err := addr.ParseHost(host)
	if err != nil {
		return nil, err
	}
	a, err := p.Resolver.Addresses(ctx, h)
	if err == nil && len(a.Records) == 0 {
		err = fmt.Errorf("%s has no address", host)
	}
	return a.Records, err
}

// handshake verifies the certificate itself: what is wrong with it is told, and
// the report is sent all the same unless Strict is set. Who breaks mail servers
// often breaks web servers too, and would never hear of it (RFC 8460, Sections
// 3 and 7; ledger RPT-5.4-05).
func (p poster) handshake(ctx context.Context, c net.Conn, host string, cert chan<- error) (net.Conn, error) {
	conn := tls.Client(c, &tls.Config{
		ServerName: host, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true, // VerifyConnection verifies
		VerifyConnection: func(s tls.ConnectionState) error {
			err := p.verify(s, host)
			cert <- err
			if p.Strict {
				return err
			}
			return nil
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS with %s: %w", host, err), c.Close())
	}
	return conn, nil
}

func (p poster) verify(s tls.ConnectionState, host string) error {
	o := x509.VerifyOptions{DNSName: host, Roots: p.Roots, Intermediates: x509.NewCertPool()}
	for _, c := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(o)
	return err
}

// retryAfter reads seconds or a date (RFC 9110, Section 10.2.3); 0 if it is
// neither.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// verdict is what an answer means for a part that was tried once more (ledger
// RPT-5.4-04, RPT-5.5-02). Only 4xx is final, without those that say "later".
func (a answer) verdict(p Part, jitter float64) Part {
	p.Tries++
	final := false
	switch s := a.Status; {
	case a.Err != nil:
		p.Why = Clean(a.Err.Error())
	case s >= 200 && s <= 299:
		p.State, p.Why = Sent, ""
		if a.Cert != nil {
			p.Why = Clean("sent, though the certificate does not verify: " + a.Cert.Error())
		}
		return p
	default:
		p.Why = fmt.Sprintf("HTTP status %d %s", s, http.StatusText(s))
		final = s >= 400 && s <= 499 && s != http.StatusRequestTimeout && s != http.StatusTooManyRequests
	}
	if final {
		p.State = Failed
		return p
	}
	return p.later(a.RetryAfter, jitter)
}

// later is a part that is to be tried again, or given up.
func (p Part) later(asked time.Duration, jitter float64) Part {
	var ok bool
	p.State = Pending
	if p.Due, ok = retry(p.Tries, p.Age, asked, jitter); !ok {
		p.State = GivenUp
	}
	return p
}
