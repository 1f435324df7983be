package unboundtest

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// What unbound is made of: the modules that a query passes.
const (
	Validating = "validator iterator"
	Oblivious  = "iterator" // it resolves and knows nothing of DNSSEC
)

// patience is how long unbound may take to be there.
const patience = 20 * time.Second

// Unbound starts Debian's unbound with the given modules and our root key, and
// returns where it listens. It ends with the test. Where unbound is not
// installed the test is left out, but never where everything must run.
func (d *DNS) Unbound(t testing.TB, modules string) netip.AddrPort {
	t.Helper()
	program := installed(t)
	var err error
	for range 5 { // another program may take the port before unbound does
		at := freePort(t)
		if err = start(t, program, d.config(t, at, modules)); err == nil {
			return at
		}
	}
	t.Fatalf("starting unbound: %v", err)
	return netip.AddrPort{}
}

// installed returns a copy of unbound: Debian's AppArmor profile confines the
// program of that path to the configuration in /etc.
func installed(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/"} {
		path, err := exec.LookPath(dir + "unbound")
		if err != nil {
			continue
		}
		program, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		ours := filepath.Join(t.TempDir(), "unbound")
		if err := os.WriteFile(ours, program, 0o700); err != nil {
			t.Fatal(err)
		}
		return ours
	}
	if os.Getenv("STSRELAY_INTEGRATION") == "" {
		t.Skip("left out: it needs unbound of the package unbound; `make test` installs it")
	}
	t.Fatal("unbound of the package unbound is not installed")
	return ""
}

func freePort(t testing.TB) netip.AddrPort {
	t.Helper()
	tcp, udp := listen(t)
	defer tcp.Close()
	defer udp.Close()
	return netip.MustParseAddrPort(udp.LocalAddr().String())
}

// config writes a configuration of an unbound that runs in the foreground with
// no rights and no files, and whose every query comes to us or to a closed port.
func (d *DNS) config(t testing.TB, at netip.AddrPort, modules string) string {
	t.Helper()
	root := d.zones[len(d.zones)-1]
	var b strings.Builder
	fmt.Fprintf(&b, `server:
  interface: %s@%d
  module-config: %q
  trust-anchor: "%s"
  do-daemonize: no
  use-syslog: no
  chroot: ""
  username: ""
  directory: ""
  pidfile: ""
  do-not-query-localhost: no
  do-ip6: no
  local-zone: "test." nodefault
  ede: yes
  val-log-level: 2
remote-control:
  control-enable: no
`, at.Addr(), at.Port(), modules, root.key.ToDS(dns.SHA256).String())
	for _, z := range d.zones {
		to := d.addr
		if z.state == Dead {
			to = freePort(t)
		}
		fmt.Fprintf(&b, "stub-zone:\n  name: %q\n  stub-addr: %s@%d\n", z.name, to.Addr(), to.Port())
	}
	path := filepath.Join(t.TempDir(), "unbound.conf")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// start runs unbound until the test ends. It returns when unbound listens, or
// has ended.
func start(t testing.TB, program, config string) error {
	t.Helper()
	cmd := exec.Command(program, "-d", "-v", "-c", config)
	log, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		said := follow(log, up)
		if err := cmd.Wait(); err != nil {
			ended <- fmt.Errorf("%w: %s", err, said)
		}
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		for range ended {
		}
	})
	select {
	case <-up:
		return nil
	case err := <-ended:
		return err
	case <-time.After(patience):
		return fmt.Errorf("not there after %s", patience)
	}
}

// follow reads the log to its end, closes up when the sockets are open, and
// returns what was said before that.
func follow(log io.Reader, up chan struct{}) (said string) {
	lines := bufio.NewScanner(log)
	for started := false; lines.Scan(); {
		if !started {
			said += lines.Text() + "\n"
		}
		if !started && strings.Contains(lines.Text(), "start of service") {
			started = true
			close(up)
		}
	}
	return said
}
