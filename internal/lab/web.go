package lab

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Request is an HTTP request as a server of the lab got it.
type Request struct {
	Conn   int // number of the connection, from 1
	Method string
	Path   string // with the query, if any
	Host   string // of the Host field
	Header http.Header
	Body   []byte
	TLS    *TLSState
	At     time.Time
}

// A web is an HTTPS server with one or more sites, told apart by SNI. It
// speaks HTTP/1.1 with its own hands, so that it can misbehave at every byte.
type web struct {
	w    *World
	port *port

	mu    sync.Mutex // guards what follows
	sites []*site
}

// A site is one host name of a web.
type site struct {
	name  string
	web   *web
	tls   func() siteTLS                       // what its TLS is like now
	reply func(out *tls.Conn, r Request) error // answers one request; an error ends the connection

	mu         sync.Mutex // guards what follows, and the owner's configuration
	requests   []Request
	handshakes []Handshake
}

type siteTLS struct {
	cert        certOf
	low, high   uint16
	hang, abort bool
	until       time.Duration // how long it hangs; 0: for ever
}

func newWeb(w *World, v6 bool) *web {
	s := &web{w: w, port: newPort(w, 443, v6)}
	s.port.serve(s.serve)
	return s
}

func (s *web) add(t *site) {
	t.web = s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sites = append(s.sites, t)
}

// site finds the site for a server name, the first one if there is none.
func (s *web) site(name string) *site {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.sites, func(t *site) bool { return strings.EqualFold(t.name, name) })
	if i < 0 && len(s.sites) > 0 {
		i = 0
	}
	if i < 0 {
		return nil
	}
	return s.sites[i]
}

var (
	errHang  = errors.New("the handshake is left hanging")
	errAbort = errors.New("the handshake is broken off")
)

// serve handles one connection.
func (s *web) serve(tcp *net.TCPConn, n int) {
	var t *site
	mute := &muzzle{TCPConn: tcp}
	var sni string
	conn := tls.Server(mute, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		sni = h.ServerName
		if t = s.site(sni); t == nil {
			return nil, errAbort
		}
		return t.config(mute)
	}})
	err := conn.Handshake()
	if t == nil {
		return
	}
	hs := Handshake{Conn: n, SNI: sni, Err: err}
	if err == nil {
		hs.State = stateOf(conn.ConnectionState())
	}
	t.note(func() { t.handshakes = append(t.handshakes, hs) })
	if errors.Is(err, errHang) {
		hang(tcp, t.tls().until)
	}
	if err != nil {
		return
	}
	defer conn.Close()
	t.requestsOf(conn, n, hs.State)
}

// config is the TLS of a connection to t.
func (t *site) config(mute *muzzle) (*tls.Config, error) {
	c := t.tls()
	if c.hang || c.abort {
		mute.on = true
		if c.hang {
			return nil, errHang
		}
		return nil, errAbort
	}
	conf := serverTLS(t.web.w.CA, c.cert, c.low, c.high)
	conf.NextProtos = []string{"http/1.1"}
	return conf, nil
}

// requestsOf answers one request of a connection after the other.
func (t *site) requestsOf(conn *tls.Conn, n int, state *TLSState) {
	in := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(io.LimitReader(req.Body, 64<<20))
		if err != nil {
			return
		}
		r := Request{
			Conn:   n,
			Method: req.Method,
			Path:   req.RequestURI,
			Host:   req.Host,
			Header: req.Header,
			Body:   body,
			TLS:    state,
			At:     time.Now(),
		}
		t.note(func() { t.requests = append(t.requests, r) })
		if t.reply(conn, r) != nil || req.Close {
			return
		}
	}
}

// note changes what was seen, and wakes those who wait.
func (t *site) note(f func()) {
	t.mu.Lock()
	f()
	t.mu.Unlock()
	t.web.port.sig.raise()
}

// muzzle drops what is written once it is on, so that a handshake can end
// without the alert that says so.
type muzzle struct {
	*net.TCPConn
	on bool // set by the goroutine that writes
}

func (m *muzzle) Write(p []byte) (int, error) {
	if m.on {
		return len(p), nil
	}
	return m.TCPConn.Write(p)
}
