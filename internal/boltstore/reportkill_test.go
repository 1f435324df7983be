package boltstore

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/tlsrpt"
)

const killDay = tlsrpt.Day("2026-11-01")

// reportForever counts one session for one domain after the other, printing
// "+domain" after each acknowledgement, while other hands make reports, queue
// their mail and deliver it.
func reportForever(dir, round string) error {
	s, err := Open(dir, killOptions)
	if err != nil {
		return err
	}
	ctx, cancel := newContext()
	defer cancel()
	failed := make(chan error)
	forever := func(f func(i int) error) {
		go func() {
			for i := 0; ; i++ {
				if err := f(i); err != nil {
					failed <- err
				}
			}
		}()
	}
	forever(func(i int) error {
		name := fmt.Sprintf("r%s-%05d.example", round, i)
		p := tlsrpt.PolicyResult{Policy: tlsrpt.Policy{Type: tlsrpt.STS, Domain: name}, Failures: []tlsrpt.Failure{{Result: tlsrpt.CertificateExpired}}}
		err := s.Add(ctx, []tlsrpt.Session{{Start: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Domain: addr.MustDomain(name), Policies: []tlsrpt.PolicyResult{p}}})
		fmt.Println("+" + name)
		return err
	})
	forever(func(int) error {
		var openings []tlsrpt.Opening
		for r, err := range s.Counted(ctx, killDay.Add(1)) {
			if err != nil {
				return err
			}
			openings = append(openings, tlsrpt.Opening{Day: r.Day, Domain: r.Domain, ID: r.Domain.String() + "@x"})
		}
		_, err := s.OpenReports(ctx, openings)
		return err
	})
	forever(func(int) error {
		jobs, _, err := s.ClaimReports(ctx, 3)
		for _, j := range jobs {
			rua := "mailto:r@" + j.Domain.String()
			o := tlsrpt.Outcome{Ref: j.Ref, Lease: j.Lease, Parts: []tlsrpt.Part{{RUA: rua, State: tlsrpt.Pending}},
				Mail: []tlsrpt.Mail{{RUA: rua, From: addr.MustAddress("a@example.org"), To: addr.MustAddress("r@example.com"), Content: []byte(bodyFor(relay.ID(j.ID)))}}}
			if err == nil {
				err = s.FinishReport(ctx, o)
			}
		}
		return err
	})
	forever(func(int) error {
		entries, err := s.Claim(ctx, "example.com", 2)
		for _, e := range entries {
			if err == nil {
				_, err = s.Settle(ctx, []relay.Result{{ID: e.ID, Lease: e.Lease, Tried: true}})
			}
		}
		return err
	})
	return <-failed
}

func TestKillReports(t *testing.T) {
	t.Run("RPT-4.1-03 every session is in one report, and every report in one mail, after SIGKILL at any moment", func(t *testing.T) {
		dir, acked, states := t.TempDir(), map[string]bool{}, map[tlsrpt.State]int{}
		for round := range 6 {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s_ROUND=%d", childDir, round), childDir+"_WHAT=reports")
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			kill := 10 + rand.IntN(100)
			lines := bufio.NewScanner(out)
			for n := 0; lines.Scan(); n++ {
				acked[strings.TrimPrefix(lines.Text(), "+")] = true
				if n == kill {
					_ = cmd.Process.Kill() // SIGKILL; it may be dead already
				}
			}
			if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the child ended by itself: %v", err)
			}
			verifyCounted(t, dir, acked, states)
		}
		if len(acked) < 50 || states[tlsrpt.Sent] == 0 || states[tlsrpt.Queued]+states[tlsrpt.Pending] == 0 {
			t.Errorf("only %d sessions, %v: the test proves little", len(acked), states)
		}
	})
}

// verifyCounted expects each acknowledged domain's one session in one place.
// That reports and mail agree is verifyIntegrity's.
func verifyCounted(t *testing.T, dir string, acked map[string]bool, states map[tlsrpt.State]int) {
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
	sessions := map[string]int64{}
	for tally, err := range s.Tallies(t.Context(), killDay) {
		if err != nil {
			t.Fatal(err)
		}
		sessions[tally.Domain.String()] += tally.Policies[0].Failures
	}
	for j, err := range s.Reports(t.Context(), killDay) {
		if err != nil {
			t.Fatal(err)
		}
		_, tally, err := s.Report(t.Context(), j.Ref)
		if err != nil {
			t.Fatal(err)
		}
		sessions[j.Domain.String()] += tally.Policies[0].Failures
		states[j.State]++
	}
	for name := range acked {
		if sessions[name] != 1 {
			t.Errorf("%s: %d sessions", name, sessions[name])
		}
	}
	for name, n := range sessions {
		if n != 1 {
			t.Errorf("%s: %d sessions, acknowledged %v", name, n, acked[name])
		}
	}
	verifySpool(t, s)
	verifyIntegrity(t, s)
}
