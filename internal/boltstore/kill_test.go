package boltstore

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"

	"github.com/rs/zerolog"
)

// childDir, set in the environment, makes the test binary a process that
// accepts messages until it is killed.
const childDir = "BOLTSTORE_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child := acceptForever
		if os.Getenv(childDir+"_WHAT") == "reports" {
			child = reportForever
		}
		if err := child(dir, os.Getenv(childDir+"_ROUND")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// killOptions sync for real: this is the one place where a test does.
var killOptions = Options{SpoolAbove: 16 << 10, Log: zerolog.Nop()}

// bodyFor is the body of a message, small or large, which its ID determines.
func bodyFor(id relay.ID) string {
	h := sha256.Sum256([]byte(id))
	return strings.Repeat(fmt.Sprintf("%x\r\n", h), 1+int(h[0])*int(h[1])/50)
}

func newMessage(id relay.ID, dest relay.Destination) relay.Message {
	return relay.Message{ID: id, From: addr.MustAddress("a@example.org"), Entries: []relay.NewEntry{
		{ID: id + "-1", Destination: dest, To: []relay.Recipient{{Address: addr.MustAddress("b@example.com")}}}}}
}

func acceptOne(s *Store, m relay.Message, body string) error {
	ctx, cancel := newContext()
	defer cancel()
	w, err := s.NewBody(ctx)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, body); err != nil {
		return err
	}
	return s.Accept(ctx, m, w)
}

// acceptForever accepts from several hands and settles some of it. It prints
// "+id" after each acknowledgement and "-id" before a settle that removes it.
func acceptForever(dir, round string) error {
	s, err := Open(dir, killOptions)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(what) // one write, straight to the pipe
	}
	failed := make(chan error)
	for hand := range 4 {
		go func() {
			for i := 0; ; i++ {
				id := relay.ID(fmt.Sprintf("%s-%d-%05d", round, hand, i))
				if err := acceptOne(s, newMessage(id, "example.com"), bodyFor(id)); err != nil {
					failed <- err
				}
				say("+" + string(id))
			}
		}()
	}
	go func() {
		ctx, cancel := newContext()
		defer cancel()
		for {
			entries, err := s.Claim(ctx, "example.com", 3)
			if err != nil {
				failed <- err
			}
			for i, e := range entries {
				r := relay.Result{ID: e.ID, Lease: e.Lease, Left: e.To, Delay: time.Hour}
				if i == 0 {
					say("-" + string(e.Message))
					r.Left = nil
				}
				if _, err := s.Settle(ctx, []relay.Result{r}); err != nil {
					failed <- err
				}
			}
		}
	}()
	return <-failed
}

func TestKill(t *testing.T) {
	t.Run("SMTP-4.1.1.4-03 SMTP-6.1-01 what was acknowledged is there, exact, after SIGKILL at any moment", func(t *testing.T) {
		dir := t.TempDir()
		acked, gone := make(map[relay.ID]bool), make(map[relay.ID]bool)
		for round := range 10 {
			runAndKill(t, dir, round, acked, gone)
			verifyAcked(t, dir, acked, gone)
		}
		if len(acked) < 50 || len(gone) == 0 {
			t.Errorf("only %d acknowledged and %d settled: the test proves little", len(acked), len(gone))
		}
	})
}

// runAndKill kills a child after it acknowledged a random number of messages.
func runAndKill(t *testing.T, dir string, round int, acked, gone map[relay.ID]bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s_ROUND=%d", childDir, round))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := 10 + rand.IntN(150)
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ { // what was written before the kill is read to its end
		id := relay.ID(lines.Text()[1:])
		if lines.Text()[0] == '+' {
			acked[id] = true
		} else {
			gone[id] = true
		}
		if n == kill {
			_ = cmd.Process.Kill() // SIGKILL; it may be dead already
		}
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the child ended by itself: %v", err)
	}
}

func verifyAcked(t *testing.T, dir string, acked, gone map[relay.ID]bool) {
	t.Helper()
	s, err := Open(dir, killOptions)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for id := range acked {
		r, err := s.Body(t.Context(), id)
		if err != nil {
			if !gone[id] {
				t.Errorf("%s was acknowledged and is lost: %v", id, err)
			}
			continue
		}
		got, err := io.ReadAll(r)
		if cerr := r.Close(); err != nil || cerr != nil || string(got) != bodyFor(id) {
			t.Errorf("%s has another body (%d octets), %v, %v", id, len(got), err, cerr)
		}
		entries, _, err := s.List(t.Context(), relay.Filter{IDs: []relay.ID{id}}, "", 10)
		if err != nil || len(entries) != 1 {
			t.Errorf("%s has %d entries, %v", id, len(entries), err)
		}
	}
	verifySpool(t, s)
	verifyIntegrity(t, s)
}

// verifySpool expects exactly the files that messages own.
func verifySpool(t *testing.T, s *Store) {
	t.Helper()
	files, err := os.ReadDir(s.spoolDir())
	if err != nil {
		t.Fatal(err)
	}
	owned := countKeys(t, s, bSpool)
	if len(files) != owned {
		t.Errorf("%d spool files, %d are owned", len(files), owned)
	}
}
