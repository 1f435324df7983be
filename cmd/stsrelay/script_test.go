package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/admin"
	"stsrelay/internal/boltstore"
	"stsrelay/internal/config"
	"stsrelay/internal/lab"
	"stsrelay/relay"
	"stsrelay/stscache"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets scripts run this very program as the command stsrelay.
func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"stsrelay": main}) }

// scriptPatience is how long a script waits for what must come. It is no
// measure of speed: it only ends a script that would hang.
const scriptPatience = 60 * time.Second

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("LANG", "C.UTF-8")
			e.Setenv("DIR", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": cmdExits, "dns": cmdDNS, "lab": cmdLab, "policy": cmdPolicy, "ready": cmdReady, "submit": cmdSubmit, "until": cmdUntil,
			"signal": cmdSignal, "logged": cmdLogged,
		},
	})
}

// cmdExits runs a command that must end with a code: exits 2 stsrelay queue.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := err.(*exec.ExitError); ok {
		code, err = exit.ExitCode(), nil
	}
	ts.Check(err)
	if code != want {
		ts.Fatalf("%v ended with %d, not %d", args[1:], code, want)
	}
}

// cmdDNS starts a DNS server that knows no domain and fails for those that are
// named. $DNS is its address.
func cmdDNS(ts *testscript.TestScript, _ bool, args []string) {
	w, err := lab.Start(lab.Options{})
	ts.Check(err)
	ts.Defer(w.Close)
	for _, domain := range args {
		w.DNS.Fail(domain, "", "SERVFAIL")
	}
	ts.Setenv("DNS", w.DNSServers()[0])
}

// cmdLab starts a fake internet with the named scenarios: lab ok.test expired.test.
// $DNS is its DNS server.
func cmdLab(ts *testscript.TestScript, _ bool, args []string) {
	w, err := lab.Start(lab.Options{})
	ts.Check(err)
	ts.Defer(w.Close)
	for _, s := range lab.Domains() {
		if slices.Contains(args, s.Domain) {
			s.Setup(w)
		}
	}
	ts.Setenv("DNS", w.DNSServers()[0])
}

// cmdPolicy puts a policy into the cache of a daemon that does not run:
// policy DATADIR DOMAIN FILE.
func cmdPolicy(ts *testscript.TestScript, _ bool, args []string) {
	s, err := boltstore.Open(ts.MkAbs(args[0]), boltstore.Options{})
	ts.Check(err)
	domain, err := addr.ParseDomain(args[1])
	ts.Check(err)
	now := time.Now()
	ts.Check(s.PutPolicy(context.Background(), stscache.Entry{Domain: domain, ID: "20261127", Body: []byte(ts.ReadFile(args[2])), Fetched: now, Used: now}))
	ts.Check(s.Close())
}

// cmdReady waits until the daemon of a configuration takes mail: ready CONFIG.
// $RELAY is where.
func cmdReady(ts *testscript.TestScript, _ bool, args []string) {
	c := client(ts, args[0])
	defer c.Close()
	poll(ts, "the daemon", func() bool {
		s, err := c.Status(context.Background())
		if err != nil || len(s.Listeners) == 0 {
			return false
		}
		ts.Setenv("RELAY", s.Listeners[0][strings.LastIndexByte(s.Listeners[0], ' ')+1:])
		return true
	})
}

func client(ts *testscript.TestScript, path string) *admin.Client {
	cfg, err := config.Load(ts.MkAbs(path))
	ts.Check(err)
	return admin.NewClient(cfg.Admin.Socket)
}

// poll looks until what a script waits for is there.
func poll(ts *testscript.TestScript, what string, there func() bool) {
	for end := time.Now().Add(scriptPatience); !there(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("waited in vain for %s", what)
		}
	}
}

// cmdSubmit sends a message: submit NAME FROM TO. $NAME is its queue id.
func cmdSubmit(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), scriptPatience)
	defer cancel()
	id, err := submit(ctx, ts.Getenv("RELAY"), letter{from: args[1], to: args[2], content: []byte("Subject: hello\r\n\r\nhello\r\n")})
	ts.Check(err)
	ts.Setenv(args[0], id)
}

// cmdUntil waits until a message has been tried n times and waits: until CONFIG
// ID N; or until there are n messages to an address: until CONFIG @domain N.
func cmdUntil(ts *testscript.TestScript, _ bool, args []string) {
	c := client(ts, args[0])
	defer c.Close()
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	f := relay.Filter{IDs: []relay.ID{relay.ID(args[1])}}
	if strings.HasPrefix(args[1], "@") {
		f = relay.Filter{To: args[1]}
	}
	poll(ts, strings.Join(args, " "), func() bool {
		got := 0
		for e, err := range c.Queue(context.Background(), f, 0) {
			ts.Check(err)
			switch {
			case f.To != "":
				got++
			case e.QueueName != "active":
				got = e.Attempts
			}
		}
		return got == n
	})
}

// cmdSignal sends a signal to the process whose number is in a file: signal
// TERM PIDFILE.
func cmdSignal(ts *testscript.TestScript, _ bool, args []string) {
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}[args[0]]))
}

// cmdLogged waits until a log has a text: logged FILE TEXT.
func cmdLogged(ts *testscript.TestScript, _ bool, args []string) {
	poll(ts, args[1], func() bool {
		log, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && strings.Contains(string(log), args[1])
	})
}

// runIn runs the program in this process.
func runIn(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func decodeLines[T any](t *testing.T, text string) (list []T) {
	t.Helper()
	for dec := json.NewDecoder(strings.NewReader(text)); dec.More(); {
		var v T
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		list = append(list, v)
	}
	return list
}
