package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/network"
	"stsrelay/relay"
	"stsrelay/stscache"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// Policies is what the commands do with cached policies. *stscache.Cache and
// the store behind it serve it.
type Policies interface {
	Refresh(ctx context.Context, domain addr.Domain) stscache.Status
	Purge(ctx context.Context, domain addr.Domain) error
}

// Options is what a Server is made of.
type Options struct {
	Socket   string // path of the Unix socket; its directory is made if absent
	HTTP     string // host:port for health checks and metrics, "" = off
	Queue    relay.Store
	Retry    func(...relay.Destination) // forget back-off, try now
	Entries  stscache.Store
	Policies Policies
	Reports  Reports // nil: off
	Status   func(context.Context) Status
	Log      zerolog.Logger
}

// A Server answers commands on the socket.
type Server struct {
	o            Options
	socket, page net.Listener

	mu    sync.RWMutex // held for reading by every request
	ended bool
}

// Listen binds the addresses, so that what cannot be bound is an error at
// start. Only the user of the daemon, and root, may connect to the socket. One
// left behind by a dead daemon is replaced; one that answers is not.
func Listen(o Options) (*Server, error) {
	s := &Server{o: o}
	var err error
	if s.socket, err = network.ListenUnix(o.Socket, 0o600); err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if o.HTTP != "" {
		if s.page, err = net.Listen("tcp", o.HTTP); err != nil {
			err = fmt.Errorf("admin http: %w; set [admin] http to another address, or to \"\" to go without", err)
			return nil, errors.Join(err, s.socket.Close())
		}
	}
	return s, nil
}

// HTTPAddr is where the health checks are served, nil if nowhere.
func (s *Server) HTTPAddr() net.Addr {
	if s.page == nil {
		return nil
	}
	return s.page.Addr()
}

// Serve answers until ctx ends. Answers under way are cut then: the commands
// say so, and whoever scrapes comes again. None of them reads the store when it
// has returned.
func (s *Server) Serve(ctx context.Context) error {
	health := http.NewServeMux()
	health.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	health.HandleFunc("GET /readyz", s.ready)
	health.HandleFunc("GET /api/v1/status", s.status)
	health.Handle("GET /metrics", metricsHandler(s.o.Status))
	full := http.NewServeMux()
	full.Handle("/", health)
	full.HandleFunc("POST /v1/queue/list", s.queueList)
	full.HandleFunc("POST /v1/queue/edit", s.queueEdit)
	full.HandleFunc("GET /v1/cache", s.cacheList)
	full.HandleFunc("GET /v1/cache/{domain}", s.cacheShow)
	full.HandleFunc("POST /v1/cache/{domain}/refresh", s.cacheRefresh)
	full.HandleFunc("POST /v1/cache/{domain}/purge", s.cachePurge)
	full.HandleFunc("GET /v1/tlsrpt", s.reporting(s.reportList))
	full.HandleFunc("GET /v1/tlsrpt/{domain}", s.reporting(s.reportShow))
	full.HandleFunc("POST /v1/tlsrpt/send", s.reporting(s.reportSend))

	g, ctx := errgroup.WithContext(ctx)
	s.serve(ctx, g, s.socket, &http.Server{Handler: full})
	if s.page != nil {
		s.serve(ctx, g, s.page, &http.Server{Handler: sameOrigin(health), ReadTimeout: pageTimeout, WriteTimeout: pageTimeout})
	}
	err := g.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	return err
}

// whileOpen lets no request in behind the end.
func (s *Server) whileOpen(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.ended {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

// The bounds of a request: its size, how long it may take to come and, on the
// page, in all. On the socket an answer may take as long as a person reads it.
const (
	maxRequest    = 1 << 20
	headerTimeout = 10 * time.Second
	pageTimeout   = 30 * time.Second
	idleTimeout   = time.Minute
)

func (s *Server) serve(ctx context.Context, g *errgroup.Group, l net.Listener, srv *http.Server) {
	srv.Handler = http.MaxBytesHandler(s.whileOpen(srv.Handler), maxRequest)
	srv.ReadHeaderTimeout, srv.IdleTimeout = headerTimeout, idleTimeout
	srv.ErrorLog = log.New(s.o.Log.With().Str("room", "admin").Logger(), "", 0)
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("admin: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return srv.Close()
	})
}

// sameOrigin refuses requests under a foreign Host: a page elsewhere must not
// read us through a name that it points at loopback.
func sameOrigin(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "unknown host", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	st := s.o.Status(r.Context())
	if !st.Healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	for _, warning := range st.Warnings {
		fmt.Fprintln(w, warning)
	}
	if st.Healthy {
		fmt.Fprintln(w, "ready")
	}
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	st := s.o.Status(r.Context())
	for _, list := range []*[]string{&st.Listeners, &st.Warnings} { // [] in JSON, not null
		*list = append([]string{}, *list...)
	}
	st.Destinations = append([]Destination{}, st.Destinations...)
	writeJSON(w, st)
}

func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // an error here is the client's leaving
}

// fail reports an error. In an answer that has begun there is no place for it:
// the connection is cut, so that the client does not take half a list for the
// whole.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error, begun bool) {
	if r.Context().Err() != nil {
		return // the client has gone
	}
	s.o.Log.Error().Err(err).Str("request", r.URL.Path).Msg("a command could not be served")
	if begun {
		panic(http.ErrAbortHandler)
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}
