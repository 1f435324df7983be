package admin_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"stsrelay/internal/admin"
	"stsrelay/internal/boltstore"
	"stsrelay/relay"
)

func TestSocketIsForItsOwnerOnly(t *testing.T) {
	d := open(t, nil)
	st, err := os.Stat(d.socket)
	if err != nil || st.Mode().Perm() != 0o600 || st.Mode().Type() != os.ModeSocket {
		t.Errorf("the socket is %v (%v)", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Dir(d.socket)); err != nil || st.Mode().Perm()&0o007 != 0 {
		t.Errorf("its directory is %v (%v)", st.Mode(), err)
	}
}

func TestOneDaemonForOneSocket(t *testing.T) {
	d := open(t, nil)
	_, err := admin.Listen(admin.Options{Socket: d.socket})
	if err == nil || !strings.Contains(err.Error(), d.socket) || !strings.Contains(err.Error(), "answers there") {
		t.Errorf("a second daemon: %v", err)
	}
	if _, err := d.client.Status(t.Context()); err != nil {
		t.Errorf("and the first one: %v", err)
	}
}

func TestSocketOfADeadDaemonIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.NewClient(path).Status(t.Context()); !errors.Is(err, admin.ErrNoDaemon) {
		t.Errorf("at a dead socket: %v", err)
	}
	d := open(t, func(o *admin.Options) { o.Socket = path })
	c := admin.NewClient(path)
	defer c.Close()
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("at %s, not %s: %v", path, d.socket, err)
	}
}

func TestAFileIsNoSocketToReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Listen(admin.Options{Socket: path}); err == nil {
		t.Error("it was replaced")
	}
	if data, err := os.ReadFile(path); string(data) != "data" {
		t.Errorf("it has %q (%v)", data, err)
	}
}

func TestNoDaemon(t *testing.T) {
	dir := t.TempDir()
	for _, socket := range []string{filepath.Join(dir, "none.sock"), filepath.Join(dir, "no", "dir.sock")} {
		c := admin.NewClient(socket)
		_, err := c.Status(t.Context())
		if !errors.Is(err, admin.ErrNoDaemon) || !strings.Contains(err.Error(), socket) || !strings.Contains(err.Error(), "stsrelay serve") {
			t.Errorf("%v", err)
		}
		if err := last(c.Queue(t.Context(), relay.Filter{}, 0)); !errors.Is(err, admin.ErrNoDaemon) {
			t.Errorf("a list: %v", err)
		}
	}
}

func TestHTTPPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket := filepath.Join(t.TempDir(), "admin.sock")
	if _, err := admin.Listen(admin.Options{Socket: socket, HTTP: l.Addr().String()}); err == nil || !strings.Contains(err.Error(), `[admin] http`) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// slow is a store that needs its time to stop when it is told to.
type slow struct {
	*boltstore.Store
	entered chan struct{}
	left    atomic.Bool
}

func (s *slow) List(ctx context.Context, _ relay.Filter, _ relay.Cursor, _ int) ([]relay.Entry, relay.Cursor, error) {
	close(s.entered)
	<-ctx.Done() // the end of the server is the end of its requests
	time.Sleep(50 * time.Millisecond)
	s.left.Store(true)
	return nil, "", ctx.Err()
}

func TestServeEndsBehindItsRequests(t *testing.T) {
	store, err := boltstore.Open(t.TempDir(), boltstore.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	b := &slow{Store: store, entered: make(chan struct{})}
	socket := filepath.Join(t.TempDir(), "admin.sock")
	s, err := admin.Listen(admin.Options{Socket: socket, Queue: b})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended, answered := make(chan error, 1), make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	c := admin.NewClient(socket)
	defer c.Close()
	go func() { answered <- last(c.Queue(t.Context(), relay.Filter{}, 0)) }()
	<-b.entered
	stop()
	if err := <-ended; err != nil || !b.left.Load() {
		t.Errorf("Serve returned (%v) before its request was over", err)
	}
	if err := <-answered; err == nil {
		t.Error("the client takes the cut answer for an empty queue")
	}
}
