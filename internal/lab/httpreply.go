package lab

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// errCut ends a connection in the middle of an answer.
var errCut = errors.New("the answer is cut")

// reply answers a request as the policy says. Other paths than that of the
// policy file do not exist, but for where Redirect leads.
func (h *PolicyHost) reply(out *tls.Conn, r Request) error {
	c := h.config()
	if err := h.linger(c, out); err != nil {
		return err
	}
	if c.Raw != "" {
		if _, err := io.WriteString(out, c.Raw); err != nil {
			return err
		}
		return errCut
	}
	return h.write(out, c, c.respond(r))
}

// linger waits as c wants.
func (h *PolicyHost) linger(c *Policy, out *tls.Conn) error {
	if c.Hang {
		return hang(out, c.HangFor)
	}
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
	return nil
}

// A response is what is sent.
type response struct {
	status int
	header http.Header
	body   []byte
}

func (c *Policy) respond(r Request) response {
	a := response{status: c.Status, header: c.Header.Clone(), body: []byte(c.Text())}
	if a.header == nil {
		a.header = http.Header{}
	}
	switch {
	case a.status == 0 && c.Redirect != "":
		a.status = http.StatusFound
	case a.status == 0 && r.Path != PolicyPath:
		a.status, a.body = http.StatusNotFound, []byte("not here\n")
	case a.status == 0:
		a.status = http.StatusOK
	}
	if c.Redirect != "" {
		a.header.Set("Location", c.Redirect)
	}
	if t := first(c.ContentType, "text/plain"); t != NoContentType {
		a.header.Set("Content-Type", t)
	}
	if c.Gzip {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(a.body) // a buffer takes everything
		z.Close()
		a.body = b.Bytes()
		a.header.Set("Content-Encoding", "gzip")
	}
	return a
}

// bytes is a response as it goes over the wire.
func (a response) bytes() []byte { return append(a.head(), a.body...) }

// head is its status line and header.
func (a response) head() []byte {
	if a.header == nil {
		a.header = http.Header{}
	}
	if a.header.Get("Content-Length") == "" && a.header.Get("Transfer-Encoding") == "" {
		a.header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	a.header.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes()
}

// write sends a response; how much of its body, and how fast, c says.
func (h *PolicyHost) write(out *tls.Conn, c *Policy, a response) error {
	head, body := a.head(), a.body
	if stop := max(c.HangAfter, c.CutAfter); stop > 0 {
		body = body[:min(stop, len(body))]
	}
	if c.Trickle <= 0 {
		head, body = append(head, body...), nil
	}
	if _, err := out.Write(head); err != nil {
		return err
	}
	for i := range body {
		if !sleep(c.Trickle, h.w.done) {
			return errClosed
		}
		if _, err := out.Write(body[i : i+1]); err != nil {
			return err
		}
	}
	switch {
	case c.HangAfter > 0:
		return hang(out, c.HangFor)
	case c.CutAfter > 0:
		return errCut
	}
	return nil
}

// hang says nothing until the client goes, or limit has passed if it is set.
func hang(c net.Conn, limit time.Duration) error {
	if limit > 0 {
		c.SetReadDeadline(time.Now().Add(limit))
	}
	_, err := io.Copy(io.Discard, c)
	return errors.Join(errCut, err)
}

// sleep waits for d. It is false when done is closed first.
func sleep(d time.Duration, done <-chan struct{}) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-done:
		return false
	}
}
