package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	"stsrelay/internal/addr"

	"github.com/emersion/go-smtp"
	"github.com/rs/zerolog"
)

// ListenerOptions is what a Listener is made of. Name, Hostname and Store are
// required; other zero fields mean their defaults.
type ListenerOptions struct {
	Name           string         // of [[listener]]
	Hostname       string         // in the greeting and in Received
	AllowFrom      []netip.Prefix // who may relay; empty: nobody
	MaxMessageSize int64          // octets; 0: 50 MiB
	TLS            *tls.Config    // offers STARTTLS; nil: no TLS
	Implicit       bool           // TLS from the first octet
	Normalize      bool           // bare CR and LF in content become CRLF instead of 550 (ledger SMUG-02)
	Postmaster     addr.Address   // who <postmaster> is; zero: postmaster@Hostname
	Store          Store
	Wake           func(...Destination) // the engine's; nil: nobody
	MaxConnections int                  // in all; 0: 1000
	MaxPerClient   int                  // per client address; 0: 200
	IdleTimeout    time.Duration        // between two reads of a client; 0: 5m (RFC 5321, Section 4.5.3.2.7)
	Grace          time.Duration        // for transactions under way when Serve ends; 0: 30s
	Log            zerolog.Logger

	// NullMX says whether a domain takes no mail (RFC 7505): then neither mail to
	// it nor from it is taken. Nil: nobody is asked.
	NullMX func(ctx context.Context, d addr.Domain) (bool, error)

	// StrictHeaders refuses a header that is not ASCII and came without SMTPUTF8
	// (RFC 6532; ledger UTF8-6532-01).
	StrictHeaders bool

	// HideClient leaves the client's name and address out of Received.
	HideClient bool

	// IgnoreTLSRequired leaves the field "TLS-Required: No" unheard: with it a
	// sender may switch the protection of its mail off (RFC 8689, Section 8.4).
	IgnoreTLSRequired bool
}

// A Listener takes mail from clients by SMTP.
type Listener struct {
	o                 ListenerOptions
	accepted, refused atomic.Uint64
	forgets           atomic.Int64 // messages that still are to be forgotten

	mu      sync.Mutex
	conns   map[*shim]netip.Addr
	leaving bool
	empty   chan struct{} // closed when the last connection has ended and we are leaving
	work    sync.WaitGroup
}

// ListenerSnapshot is how a Listener is at a moment.
type ListenerSnapshot struct {
	Connections       int
	Accepted, Refused uint64 // messages, and refusals, since the start
}

// NewListener returns a Listener that takes nothing before Serve.
func NewListener(o ListenerOptions) *Listener {
	if o.MaxMessageSize <= 0 {
		o.MaxMessageSize = 50 << 20
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = 1000
	}
	if o.MaxPerClient <= 0 {
		o.MaxPerClient = 200
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 5 * time.Minute
	}
	if o.Grace <= 0 {
		o.Grace = 30 * time.Second
	}
	return &Listener{o: o, conns: map[*shim]netip.Addr{}, empty: make(chan struct{})}
}

// Snapshot tells of connections and messages.
func (l *Listener) Snapshot() ListenerSnapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return ListenerSnapshot{len(l.conns), l.accepted.Load(), l.refused.Load()}
}

// Serve takes mail from the connections of ln until ctx ends. Then idle clients
// get 421, and transactions under way may end within the grace time.
func (l *Listener) Serve(ctx context.Context, ln net.Listener) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return l.session(work, c) }))
	srv.Domain = l.o.Hostname
	srv.MaxMessageBytes = l.o.MaxMessageSize + 1 // it refuses the last octet (S11)
	srv.MaxLineLength = 0                        // the shim bounds lines, commands and content apart (S12)
	srv.ErrorLog = errorLog{l.o.Log, l.o.Name}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(&shimListener{Listener: ln, l: l, o: l.shimOptions()}) }()
	var err error
	select {
	case err = <-served: // nobody asked it to end
		err = fmt.Errorf("accepting connections: %w", err)
	case <-ctx.Done():
		err = ln.Close()
		<-served
	}
	l.leave()
	stop() // what stores or forgets now has had its time
	<-l.empty
	l.work.Wait()
	return err
}

// lastWords is the time for telling a client whose grace time is over.
const lastWords = time.Second

// leave has every client go, and waits for those with a transaction.
func (l *Listener) leave() {
	l.mu.Lock()
	l.leaving = true
	for c := range l.conns {
		c.leave(l.o.Grace)
	}
	if len(l.conns) == 0 {
		close(l.empty)
	}
	l.mu.Unlock()
	limit := time.NewTimer(l.o.Grace + lastWords)
	defer limit.Stop()
	select {
	case <-l.empty:
	case <-limit.C:
		l.mu.Lock()
		defer l.mu.Unlock()
		for c := range l.conns {
			c.cut()
		}
	}
}

func (l *Listener) session(ctx context.Context, c *smtp.Conn) (smtp.Session, error) {
	if strings.ContainsFunc(c.Hostname(), unicode.IsControl) { // S7; a later one is cleaned where it is repeated
		return nil, refusal(501, smtp.EnhancedCode{5, 5, 4}, "the name in HELO or EHLO has control characters")
	}
	return &session{l: l, shim: c.Conn().(*shim), conn: c, ctx: ctx}, nil
}

// shimOptions says what go-smtp's replies should be: with the size that is taken
// (S11), and with the codes of RFC 5321 and RFC 5248.
func (l *Listener) shimOptions() shimOptions {
	o := shimOptions{idle: l.o.IdleTimeout, loose: l.o.Normalize, bye: "421 4.3.2 " + l.o.Hostname + " is going down\r\n",
		postmaster: l.o.Postmaster.Path(), refused: l.shimRefused, tls: l.o.TLS, secure: l.o.Implicit,
		replies: map[string]string{
			"501 5.5.2 Was expecting MAIL arg syntax of FROM:<address>\r\n": "501 5.1.7 MAIL FROM:<address> is what is understood here\r\n",
			"501 5.5.2 Was expecting RCPT arg syntax of TO:<address>\r\n":   "501 5.1.3 RCPT TO:<address> is what is understood here\r\n",
			"502 5.5.1 Please introduce yourself first.\r\n":                "503 5.5.1 say EHLO first\r\n", // RFC 5321, Section 4.1.4
			"502 5.5.1 Missing MAIL FROM command.\r\n":                      "503 5.5.1 say MAIL first\r\n",
			"502 5.5.1 Missing RCPT TO command.\r\n":                        "554 5.5.1 no valid recipients\r\n", // RFC 5321, Section 3.3
			"523 5.7.10 TLS is required\r\n":                                "502 5.5.1 AUTH is not offered\r\n",
			"502 5.5.1 TLS not supported\r\n":                               "502 5.5.1 STARTTLS is not offered, or not here: not with a parameter, not in a transaction and not under TLS\r\n",
			fmt.Sprintf("250 SIZE %d\r\n", l.o.MaxMessageSize+1):            fmt.Sprintf("250 SIZE %d\r\n", l.o.MaxMessageSize),
		}}
	if l.o.Postmaster.IsNull() {
		o.postmaster = "<postmaster@" + l.o.Hostname + ">"
	}
	return o
}

// shimRefused tells of what no session heard of.
func (l *Listener) shimRefused(c *shim, why string) {
	l.refused.Add(1)
	why = cleanLine(why)
	l.o.Log.Info().Str("listener", l.o.Name).Str("client", clientText(c.raw.RemoteAddr())).Str("reason", why).
		Msg("a client was refused: " + why)
}

// forget removes a message that may have been stored although the client will
// be told to send it again. What cannot be removed now is tried until the end.
func (l *Listener) forget(ctx context.Context, id ID) {
	err := l.o.Store.Forget(ctx, id)
	if err == nil {
		return
	}
	if l.forgets.Add(1) > maxForgets {
		l.forgets.Add(-1)
		l.leftInQueue(id, err)
		return
	}
	l.work.Go(func() {
		defer l.forgets.Add(-1)
		for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Minute) {
			select {
			case <-ctx.Done():
				l.leftInQueue(id, err)
				return
			case <-time.After(pause):
			}
			if err = l.o.Store.Forget(ctx, id); err == nil {
				return
			}
		}
	})
}

// maxForgets bounds how many messages are remembered for being forgotten.
const maxForgets = 1000

// leftInQueue says that a message may arrive twice, which is better than never.
func (l *Listener) leftInQueue(id ID, err error) {
	l.o.Log.Warn().Err(err).Str("queue_id", string(id)).Str("listener", l.o.Name).
		Msg("a message that the client was told to send again may be in the queue too")
}

// A shimListener puts a shim on each connection, and turns away what is too
// much.
type shimListener struct {
	net.Listener
	l *Listener
	o shimOptions
}

func (s *shimListener) Accept() (net.Conn, error) {
	for {
		nc, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &shim{Conn: nc, raw: nc, o: s.o}
		if why := s.l.enter(c); why != "" {
			s.l.o.Log.Warn().Str("listener", s.l.o.Name).Str("client", clientText(nc.RemoteAddr())).Msg("connection refused: " + why)
			if !s.o.secure { // it would not be understood
				c.out = []byte("421 4.7.0 " + s.l.o.Hostname + " " + why + "\r\n")
			}
			_ = c.Close()
			continue
		}
		return c, nil
	}
}

// enter counts a connection in, or says why not.
func (l *Listener) enter(c *shim) (why string) {
	ip := clientIP(c.RemoteAddr())
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, other := range l.conns {
		if other == ip {
			n++
		}
	}
	switch {
	case l.leaving:
		return "is going down"
	case len(l.conns) >= l.o.MaxConnections:
		return fmt.Sprintf("has %d connections, which is the limit", len(l.conns))
	case n >= l.o.MaxPerClient:
		return fmt.Sprintf("has %d connections from %s, which is the limit", n, clientText(c.RemoteAddr()))
	}
	l.conns[c] = ip
	c.onClose = func() { l.exit(c) }
	return ""
}

func (l *Listener) exit(c *shim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	if l.leaving && len(l.conns) == 0 {
		select {
		case <-l.empty:
		default:
			close(l.empty)
		}
	}
}

// noRoom reports whether the store has no room, rather than another fault.
func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrNoRoom) }

// errorLog is where go-smtp tells of connections that broke.
type errorLog struct {
	log  zerolog.Logger
	name string
}

func (e errorLog) Printf(format string, v ...any) {
	e.log.Debug().Str("listener", e.name).Msg(cleanLine(fmt.Sprintf(format, v...)))
}

func (e errorLog) Println(v ...any) { e.Printf("%s", fmt.Sprint(v...)) }

// handshakeLimit is the time for a TLS handshake, as for the other side's in
// ledger SMTP-4.5.3.2-04.
const handshakeLimit = 2 * time.Minute

// offersTLS reports whether STARTTLS would be taken now.
func (c *shim) offersTLS() bool {
	return c.o.tls != nil && !c.o.secure && c.Conn == c.raw
}

// startTLS answers a STARTTLS behind which nothing was sent, after everything
// before it was answered. Go-smtp knows nothing of it: its own STARTTLS would
// put TLS above the shim, and the shim would see neither commands nor content.
// Within a transaction it gets the line and refuses.
func (c *shim) startTLS() error {
	c.upgrade = false
	if c.isBusy() {
		c.in = append(c.buf[:0], "STARTTLS\r\n"...)
		c.ready = len(c.in)
		return nil
	}
	c.out = append(c.out, "220 2.0.0 begin TLS\r\n"...)
	if err := c.flush(); err != nil {
		return c.fail(err)
	}
	return c.handshake()
}

// handshake puts TLS over the connection. What the client has said without it is
// forgotten (RFC 3207, Section 4.2): the session wants EHLO anew.
func (c *shim) handshake() error {
	tc := tls.Server(c.raw, c.o.tls)
	err := c.allow(handshakeLimit)
	if err == nil {
		err = tc.Handshake()
	}
	if err != nil {
		c.o.refused(c, "TLS handshake failed: "+err.Error())
		c.out, c.lost = nil, true // what was to be said was meant for TLS
		return c.fail(net.ErrClosed)
	}
	c.Conn, c.greeted, c.in = tc, false, nil
	return nil
}
