package app

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"stsrelay/internal/admin"
	"stsrelay/internal/lab"
)

// The tests of this file start the program itself, as `go build` makes it, with
// a configuration of the contract's keys. It dials ports 25 and 443 by itself,
// so the lab has to be on them.

// realLab is a lab on real ports. Without the right to bind them the test is
// left out, but never where everything must run.
func realLab(t *testing.T) *lab.World {
	t.Helper()
	net, err := lab.Start(lab.Options{RealPorts: true})
	if errors.Is(err, os.ErrPermission) && os.Getenv("STSRELAY_INTEGRATION") == "" {
		t.Skip("left out: it needs the ports 25, 53 and 443 of loopback addresses; run `make test` as root, or set net.ipv4.ip_unprivileged_port_start=25")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	return net
}

// need leaves a test out where a program is not installed, but never where
// everything must run.
func need(t *testing.T, program, pkg string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/"} {
		if path, err := exec.LookPath(dir + program); err == nil {
			return path
		}
	}
	if os.Getenv("STSRELAY_INTEGRATION") == "" {
		t.Skipf("left out: it needs %s of the package %s; `make test` installs it", program, pkg)
	}
	t.Fatalf("%s of the package %s is not installed", program, pkg)
	return ""
}

// binary is the program, built at first use; TestMain removes it.
var binary struct {
	sync.Once
	dir string
	err error
}

func program(t *testing.T) string {
	t.Helper()
	binary.Do(func() {
		if binary.dir, binary.err = os.MkdirTemp("", "stsbin"); binary.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", binary.dir, "stsrelay/cmd/stsrelay").CombinedOutput()
		if err != nil {
			binary.err = fmt.Errorf("go build: %w: %s", err, out)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return filepath.Join(binary.dir, "stsrelay")
}

func TestMain(m *testing.M) {
	code := m.Run()
	if binary.dir != "" {
		os.RemoveAll(binary.dir)
	}
	os.Exit(code)
}

// A process is the program, running.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	log     syncBuffer
	ended   chan error
	address string
	socket  string
}

// A site is what one installation has: a configuration file and a data
// directory.
type site struct {
	t       *testing.T
	dir     string
	address string
}

func newSite(t *testing.T, world *lab.World) *site {
	t.Helper()
	dir := shortDir(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, address: l.Addr().String()}
	l.Close()
	text := strings.Replace(configText(dir, world, ""), "127.0.0.1:0", s.address, 1)
	text = strings.Replace(text, "[delivery]", fmt.Sprintf("[delivery]\nroots_file = %q", filepath.Join(dir, "roots.pem")), 1)
	for name, data := range map[string][]byte{"config.toml": []byte(text), "roots.pem": world.RootsPEM()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// serve starts `stsrelay serve` and waits until it takes mail. Its port is one
// that a connection of somebody else may hold for a moment: then it is started
// once more.
func (s *site) serve() *process {
	s.t.Helper()
	for tries := 1; ; tries++ {
		p, err := s.start()
		if err == nil {
			return p
		}
		if tries == 20 || !strings.Contains(p.log.String(), "address already in use") {
			s.t.Fatalf("%v:\n%s", err, &p.log)
		}
	}
}

func (s *site) start() (*process, error) {
	s.t.Helper()
	p := &process{t: s.t, address: s.address, socket: filepath.Join(s.dir, "a.sock"), ended: make(chan error, 1)}
	p.cmd = exec.Command(program(s.t), "serve", "--config", filepath.Join(s.dir, "config.toml"))
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	s.t.Cleanup(func() { p.kill() })
	ctx := within(s.t)
	for {
		if _, err := admin.NewClient(p.socket).Status(ctx); err == nil {
			return p, nil
		}
		select {
		case err := <-p.ended:
			p.ended <- err // for kill
			return p, fmt.Errorf("it ended with %w", cmp.Or(err, errors.New("no error")))
		case <-ctx.Done():
			return p, errors.New("it does not start")
		case <-time.After(5 * time.Millisecond): // another look
		}
	}
}

func (p *process) kill() {
	p.cmd.Process.Kill() // it may have ended
	<-p.ended
	p.ended <- nil
}

// term ends it as systemd would, and returns what it ended with.
func (p *process) term() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.ended:
		p.ended <- nil
		return err
	case <-time.After(patience):
		return errors.New("it does not end")
	}
}

// A ledgerBook is what clients were promised.
type ledgerBook struct {
	mu    sync.Mutex
	acked map[string]bool
	more  chan struct{} // closed and made anew with every promise
}

func newLedgerBook() *ledgerBook {
	return &ledgerBook{acked: map[string]bool{}, more: make(chan struct{})}
}

func (b *ledgerBook) add(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked[id] = true
	close(b.more)
	b.more = make(chan struct{})
}

// reach waits until n messages were promised, or until done.
func (b *ledgerBook) reach(n int, done <-chan struct{}) bool {
	for {
		b.mu.Lock()
		have, more := len(b.acked), b.more
		b.mu.Unlock()
		if have >= n {
			return true
		}
		select {
		case <-more:
		case <-done:
			return false
		}
	}
}

// missing lists promised messages that are in no sink, and counts what came
// more than once.
func (b *ledgerBook) missing(sinks ...*lab.MXHost) (list []string, twice int) {
	seen := map[string]int{}
	for _, mx := range sinks {
		for _, m := range mx.Messages() {
			seen[subject(m.Content)]++
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.acked {
		switch n := seen[id]; {
		case n == 0:
			list = append(list, id)
		case n > 1:
			twice++
		}
	}
	return list, twice
}

func subject(content []byte) string {
	_, rest, _ := bytes.Cut(content, []byte("\r\nSubject: "))
	s, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return string(s)
}

// Five hundred messages from ten clients, and the process is killed again and
// again at random moments between them (ledger SMTP-4.1.1.4-03, SMTP-6.1-01).
func TestSMTP_6_1_01_KillLosesNothing(t *testing.T) {
	world := realLab(t)
	var sinks []*lab.MXHost
	var domains []string
	for i := range 5 {
		domain := fmt.Sprintf("d%d.test", i)
		mx, _ := enforced(world, domain, nil)
		sinks, domains = append(sinks, mx), append(domains, domain)
	}
	s := newSite(t, world)
	const clients, each, kills = 10, 50, 6
	book, done := newLedgerBook(), make(chan struct{})
	var wg sync.WaitGroup
	p := s.serve()
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				submitUntilTaken(t, s.address, fmt.Sprintf("m%d-%d", c, i), domains[i%len(domains)], book)
			}
		})
	}
	go func() {
		wg.Wait()
		close(done)
	}()
	killed, target := 0, 0
	for range kills {
		target += 20 + rand.IntN(clients*each/kills-20)
		if !book.reach(target, done) {
			break
		}
		p.kill()
		killed++
		p = s.serve()
	}
	<-done
	if killed < kills/2 {
		t.Fatalf("it was killed %d times only", killed)
	}
	ctx := within(t)
	for {
		list, twice := book.missing(sinks...)
		if len(list) == 0 {
			t.Logf("%d messages promised, killed %d times, %d came twice", len(book.acked), killed, twice)
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d of %d promised messages are lost: %.10q\n%s", len(list), len(book.acked), list, &p.log)
		case <-time.After(10 * time.Millisecond): // another look
		}
	}
	if err := p.term(); err != nil {
		t.Errorf("SIGTERM ended it with %v\n%s", err, &p.log)
	}
}

// submitUntilTaken hands a message in again and again until it is promised, as
// a client with a queue would.
func submitUntilTaken(t *testing.T, address, id, domain string, book *ledgerBook) {
	deadline := time.Now().Add(patience)
	for {
		err := smtp.SendMail(address, nil, "a@sender.test", []string{"b@" + domain}, []byte(letter(id, 3000)))
		if err == nil {
			book.add(id)
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("message %s is not taken: %v", id, err)
			return
		}
		time.Sleep(5 * time.Millisecond) // it is being started again: the pace of a client that tries again
	}
}

// Debian's clients: what they send arrives, octet for octet.
func TestStandardClients(t *testing.T) {
	swaks, source := need(t, "swaks", "swaks"), need(t, "smtp-source", "postfix")
	world := realLab(t)
	mx, _ := enforced(world, "example.test", nil)
	s := newSite(t, world)
	p := s.serve()

	content := letter("swaks", 3000) + ".\r\n..two dots\r\nGr\xc3\xbc\xc3\x9fe\r\n"
	file := filepath.Join(s.dir, "message")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(content, "\r\n", "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	runClient(t, swaks, "--server", s.address, "--from", "a@sender.test", "--to", "b@example.test", "--data", "@"+file, "--suppress-data")
	if err := mx.WaitMessages(within(t), 1); err != nil {
		t.Fatalf("%v\n%s", err, &p.log)
	}
	if got := original(t, mx.Messages()[0].Content); strings.TrimRight(got, "\r\n") != strings.TrimRight(content, "\r\n") { // it adds line ends of its own
		t.Errorf("swaks' message arrived as %q", got)
	}

	runClient(t, source, "-c", "-s", "10", "-m", "100", "-l", "10240", "-f", "a@sender.test", "-t", "b@example.test", s.address)
	if err := mx.WaitMessages(within(t), 101); err != nil {
		t.Fatalf("%v\n%s", err, &p.log)
	}
	for _, m := range mx.Messages()[1:] {
		if body := original(t, m.Content); len(body) < 10000 || m.TLS == nil {
			t.Errorf("a message of smtp-source has %d octets, TLS %+v", len(body), m.TLS)
		}
	}
	if v := mx.Violations(); v != nil {
		t.Errorf("the MX host complains of %v", v)
	}
	if err := p.term(); err != nil {
		t.Errorf("SIGTERM ended it with %v\n%s", err, &p.log)
	}
	for _, line := range []string{`"status":"sent"`, `"policy":"sts:enforce id=1"`, `"tls":"Verified TLSv1.3"`} {
		if !strings.Contains(p.log.String(), line) {
			t.Errorf("the log has no %s", line)
		}
	}
}

func runClient(t *testing.T, path string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(path), err, out)
	}
}
