package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A Collector says what an HTTPS server is like that takes TLS reports by POST
// (RFC 8460, Section 5.4).
type Collector struct {
	Host    string   // name of the server, in DNS and in the certificate
	Domains []string // get a TXT record at _smtp._tls that leads to URL
	Status  int      // of the answer, 201 if zero
	Body    string   // of the answer
	Delay   time.Duration
	Until   <-chan struct{} // answer when it is closed
	Header  http.Header     // more header fields of the answer, such as Retry-After or Location
	Cert    CertKind
}

// A CollectorHost is a running Collector.
type CollectorHost struct {
	w    *World
	host string
	site *site
	conf Collector // guarded by site.mu
}

// AddCollector starts a report collector and writes its records into DNS.
func (w *World) AddCollector(c Collector) *CollectorHost {
	if c.Host == "" {
		panic("lab: a Collector needs a Host")
	}
	h := &CollectorHost{w: w, host: strings.TrimSuffix(c.Host, "."), conf: c}
	h.site = &site{name: h.host, reply: h.reply, tls: func() siteTLS {
		return siteTLS{cert: certOf{name: h.host, kind: h.config().Cert}}
	}}
	newWeb(w, false).add(h.site)
	w.DNS.Add(fmt.Sprintf("%s. 300 IN A %s", h.host, h.site.web.port.addr))
	for _, d := range c.Domains {
		w.DNS.SetTXT("_smtp._tls."+d, "v=TLSRPTv1; rua="+h.URL())
	}
	return h
}

// URL is where reports go: "https://reports.example.test/v1".
func (h *CollectorHost) URL() string { return "https://" + h.host + "/v1" }

// Addr is the IPv4 address of the server in DNS.
func (h *CollectorHost) Addr() string { return h.site.web.port.addr.String() }

func (h *CollectorHost) config() Collector {
	h.site.mu.Lock()
	defer h.site.mu.Unlock()
	return h.conf
}

// Change changes what the server is like, from the next request on. DNS stays
// as it is.
func (h *CollectorHost) Change(f func(c *Collector)) {
	h.site.mu.Lock()
	defer h.site.mu.Unlock()
	c := h.conf
	c.Header = c.Header.Clone()
	f(&c)
	c.Header = c.Header.Clone()
	h.conf = c
}

// Requests returns the HTTP requests with their bodies, as they came.
func (h *CollectorHost) Requests() []Request {
	h.site.mu.Lock()
	defer h.site.mu.Unlock()
	return slices.Clone(h.site.requests)
}

// WaitRequests waits until there have been n requests.
func (h *CollectorHost) WaitRequests(ctx context.Context, n int) error {
	if err := h.site.web.port.waitFor(ctx, func() bool { return len(h.Requests()) >= n }); err != nil {
		return fmt.Errorf("lab: %s has had %d requests, not %d: %w", h.host, len(h.Requests()), n, err)
	}
	return nil
}

func (h *CollectorHost) reply(out *tls.Conn, _ Request) error {
	c := h.config()
	if !sleep(c.Delay, h.w.done) {
		return errClosed
	}
	if c.Until != nil {
		select {
		case <-c.Until:
		case <-h.w.done:
			return errClosed
		}
	}
	status := c.Status
	if status == 0 {
		status = http.StatusCreated
	}
	_, err := out.Write(response{status, c.Header.Clone(), []byte(c.Body)}.bytes())
	return err
}
