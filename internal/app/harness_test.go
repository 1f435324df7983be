package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/admin"
	"stsrelay/internal/config"
	"stsrelay/internal/lab"
	"stsrelay/relay"

	"github.com/rs/zerolog"
)

// patience is how long a test waits for what must come. It is no measure of
// speed: it only ends a test that would hang.
const patience = 60 * time.Second

// A fixture is a relay in this process that delivers to a lab.
type fixture struct {
	t    testing.TB
	net  *lab.World
	cfg  config.Config
	info Info
	log  *syncBuffer
	stop func() error // ends the relay; may be called more than once
}

// parse reads a configuration of the contract's keys.
func parse(t testing.TB, text string) config.Config {
	t.Helper()
	cfg, err := config.Parse("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// configText is a configuration for a lab: contract keys only.
func configText(dir string, net *lab.World, more string) string {
	return fmt.Sprintf(`
hostname = "relay.sender.test"
data_dir = %q
[[listener]]
name = "in"
address = "127.0.0.1:0"
[network]
allow_private = ["127.0.0.0/8"]
[dns]
servers = [%q]
[delivery]
ip_families = ["ipv4"]
[admin]
socket = %q
http = ""
%s`, filepath.Join(dir, "data"), net.DNSServers()[0], filepath.Join(dir, "a.sock"), more)
}

func startLab(t testing.TB) *lab.World {
	t.Helper()
	net, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	return net
}

// shortDir is a temporary directory whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start runs a relay with a configuration until the test ends.
func start(t testing.TB, net *lab.World, cfg config.Config, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, net: net, cfg: cfg, log: &syncBuffer{}}
	ready := make(chan Info, 1)
	o := Options{Version: "test", Log: zerolog.New(f.log), Dialer: net.Dialer(), Roots: net.Roots(),
		Ready: func(i Info) { ready <- i }}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, o) }()
	f.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("the relay does not end")
		}
	})
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Errorf("the relay ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", f.log)
		}
	})
	select {
	case f.info = <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("the relay did not start: %v", err)
	case <-time.After(patience):
		t.Fatal("the relay does not start")
	}
	return f
}

// address is where the relay's one listener is.
func (f *fixture) address() string { return f.info.Listeners["in"].String() }

// send hands one message in and fails the test unless it is taken.
func (f *fixture) send(from string, to []string, content string) {
	f.t.Helper()
	if err := smtp.SendMail(f.address(), nil, from, to, []byte(content)); err != nil {
		f.t.Fatal(err)
	}
}

// queue lists what waits.
func (f *fixture) queue() []relay.Entry {
	f.t.Helper()
	list, _, err := f.info.Store.List(context.Background(), relay.Filter{}, "", 1000)
	if err != nil {
		f.t.Fatal(err)
	}
	return list
}

// within bounds the time of a wait.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// letter is a message with a body of n octets.
func letter(id string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "From: a@sender.test\r\nTo: b@example.test\r\nSubject: %s\r\nDate: Fri, 27 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%s@sender.test>\r\n\r\n", id, id)
	for b.Len() < n {
		b.WriteString("The quick brown fox jumps over the lazy dog, and so on and so on.\r\n")
	}
	return b.String()
}

// original is what arrived, without the Received field that the relay put on
// top.
func original(t testing.TB, content []byte) string {
	t.Helper()
	if !bytes.HasPrefix(content, []byte("Received: from ")) {
		t.Errorf("it arrived without our Received field: %.100q", content)
		return string(content)
	}
	rest := content
	for {
		i := bytes.Index(rest, []byte("\r\n"))
		if i < 0 {
			t.Fatalf("it is all header: %q", content)
		}
		rest = rest[i+2:]
		if len(rest) == 0 || rest[0] != ' ' && rest[0] != '\t' {
			return string(rest)
		}
	}
}

// A syncBuffer is a log that goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// begin says MAIL, RCPT and DATA.
func begin(c *smtp.Client, from string, to ...string) (io.WriteCloser, error) {
	if err := c.Mail(from); err != nil {
		return nil, err
	}
	for _, a := range to {
		if err := c.Rcpt(a); err != nil {
			return nil, err
		}
	}
	return c.Data()
}

// waitDeferred waits until n entries have been tried and wait for a retry.
func (f *fixture) waitDeferred(n int) {
	f.t.Helper()
	f.until(func(list []relay.Entry) bool {
		waiting := 0
		for _, e := range list {
			if e.Attempts > 0 && e.Lease == 0 {
				waiting++
			}
		}
		return waiting >= n
	})
}

// waitQueue waits until the queue has n entries.
func (f *fixture) waitQueue(n int) {
	f.t.Helper()
	f.until(func(list []relay.Entry) bool { return len(list) == n })
}

func (f *fixture) until(ok func([]relay.Entry) bool) {
	f.t.Helper()
	ctx := within(f.t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok(f.queue()) {
		select {
		case <-ctx.Done():
			f.t.Fatalf("the queue is %+v", f.queue())
		case <-tick.C:
		}
	}
}

// retryAll does what `queue retry --all` does.
func (f *fixture) retryAll() {
	f.t.Helper()
	done, err := admin.NewClient(f.info.Socket).Edit(context.Background(), relay.Filter{}, relay.Action{Verb: relay.VerbRetry})
	if err != nil || done.Count == 0 {
		f.t.Fatalf("retry: %+v, %v", done, err)
	}
}

// status asks as `stsrelay status` does.
func (f *fixture) status() admin.Status {
	f.t.Helper()
	s, err := admin.NewClient(f.info.Socket).Status(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func mustDomain(t testing.TB, s string) addr.Domain {
	t.Helper()
	d, err := addr.ParseDomain(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
