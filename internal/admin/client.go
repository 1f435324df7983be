package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"stsrelay/relay"
)

// A Client asks a daemon on its socket.
type Client struct {
	http   http.Client
	socket string
}

// ErrNoDaemon is wrapped when nothing answers at the socket.
var ErrNoDaemon = errors.New("no daemon answers")

// ErrNotFound is wrapped when the daemon knows no such thing.
var ErrNotFound = errors.New("not found")

// notFound is an ErrNotFound in the daemon's words.
type notFound struct{ text string }

func (n notFound) Error() string { return n.text }
func (n notFound) Unwrap() error { return ErrNotFound }

// NewClient returns a Client for the socket; nothing is dialled yet.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Close gives connections back that are kept for a next question.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks how the daemon is.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, "GET", "/api/v1/status", nil, &s)
}

// Queue yields matching entries; limit 0 means all of them.
func (c *Client) Queue(ctx context.Context, f relay.Filter, limit int) iter.Seq2[QueueEntry, error] {
	return lines[QueueEntry](ctx, c, "POST", "/v1/queue/list", listRequest{f, limit})
}

// Edit applies an action to matching entries.
func (c *Client) Edit(ctx context.Context, f relay.Filter, a relay.Action) (done relay.Edited, err error) {
	return done, c.call(ctx, "POST", "/v1/queue/edit", editRequest{f, a}, &done)
}

// Policies yields every cached policy.
func (c *Client) Policies(ctx context.Context) iter.Seq2[PolicyEntry, error] {
	return lines[PolicyEntry](ctx, c, "GET", "/v1/cache", nil)
}

// Policy returns one cached policy, with its lines.
func (c *Client) Policy(ctx context.Context, domain string) (p PolicyEntry, err error) {
	return p, c.call(ctx, "GET", "/v1/cache/"+url.PathEscape(domain), nil, &p)
}

// RefreshPolicy looks for a newer policy now.
func (c *Client) RefreshPolicy(ctx context.Context, domain string) (p PolicyEntry, err error) {
	return p, c.call(ctx, "POST", "/v1/cache/"+url.PathEscape(domain)+"/refresh", nil, &p)
}

// PurgePolicy forgets a policy; the next attempt discovers it anew.
func (c *Client) PurgePolicy(ctx context.Context, domain string) error {
	return c.call(ctx, "POST", "/v1/cache/"+url.PathEscape(domain)+"/purge", nil, &struct{}{})
}

// Reports yields the TLS reports of a day, of all days when day is "".
func (c *Client) Reports(ctx context.Context, day string) iter.Seq2[ReportEntry, error] {
	return lines[ReportEntry](ctx, c, "GET", "/v1/tlsrpt?day="+url.QueryEscape(day), nil)
}

// Report yields the reports about a domain's day, of the last one when day is
// "".
func (c *Client) Report(ctx context.Context, domain, day string) iter.Seq2[ReportShown, error] {
	return lines[ReportShown](ctx, c, "GET", "/v1/tlsrpt/"+url.PathEscape(domain)+"?day="+url.QueryEscape(day), nil)
}

// SendReports has reports sent now, and yields them when each was tried.
func (c *Client) SendReports(ctx context.Context, r ReportRequest) iter.Seq2[ReportEntry, error] {
	return lines[ReportEntry](ctx, c, "POST", "/v1/tlsrpt/send", r)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	res, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("reading the daemon's answer: %w", err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://stsrelay"+path, body)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	msg := strings.TrimSpace(string(text))
	if err != nil || msg == "" {
		msg = "the daemon answered " + res.Status
	}
	if res.StatusCode == http.StatusNotFound {
		return nil, notFound{msg}
	}
	return nil, errors.New(msg)
}

func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w at %s: is `stsrelay serve` running with this configuration?", ErrNoDaemon, c.socket)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w at %s: permission denied; run this as the daemon's user or root", ErrNoDaemon, c.socket)
	}
	return err
}

// lines reads JSON Lines.
func lines[T any](ctx context.Context, c *Client, method, path string, in any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		res, err := c.do(ctx, method, path, in)
		if err != nil {
			yield(zero, err)
			return
		}
		defer res.Body.Close()
		dec := json.NewDecoder(bufio.NewReader(res.Body))
		for {
			var v T
			err := dec.Decode(&v)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				err = fmt.Errorf("reading the daemon's answer: %w", err)
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}
