package tlsrpt_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/relay"
	"stsrelay/tlsrpt"
)

// A brokenStore fails to open, claim or finish reports for some calls: before
// it did something, or after it.
type brokenStore struct {
	tlsrpt.Store
	before, after atomic.Int32 // calls that still fail
}

var errDisk = fmt.Errorf("%w: disk full", relay.ErrUnavailable)

func (s *brokenStore) failing(f func() error) error {
	if s.before.Add(-1) >= 0 {
		return errDisk
	}
	err := f()
	if s.after.Add(-1) >= 0 {
		return errors.Join(errDisk, err)
	}
	return err
}

func (s *brokenStore) FinishReport(ctx context.Context, o tlsrpt.Outcome) error {
	return s.failing(func() error { return s.Store.FinishReport(ctx, o) })
}

func (s *brokenStore) OpenReports(ctx context.Context, o []tlsrpt.Opening) (jobs []tlsrpt.Job, err error) {
	err = s.failing(func() (err error) {
		jobs, err = s.Store.OpenReports(ctx, o)
		return err
	})
	return jobs, err
}

func (s *brokenStore) ClaimReports(ctx context.Context, n int) (jobs []tlsrpt.Job, next time.Duration, err error) {
	if s.before.Add(-1) >= 0 {
		return nil, 0, errDisk
	}
	return s.Store.ClaimReports(ctx, n)
}

func TestStoreFails(t *testing.T) {
	for n := range int32(12) {
		for _, how := range []string{"before", "after"} {
			inBubble(t, fmt.Sprintf("RPT-4.1-03 %d calls of the store fail %s they wrote: sent once", n, how), nil, func(t *testing.T, b *bubble) {
				s := &brokenStore{Store: b.store}
				b.o.Store = s
				b.publish("a.example", "https://r.example/v1,mailto:m@a.example")
				b.start()
				b.count("a.example", 5)
				time.Sleep(day - time.Hour)
				synctest.Wait()
				if how == "before" {
					s.before.Store(n)
				} else {
					s.after.Store(n)
				}
				time.Sleep(6 * time.Hour)
				synctest.Wait()
				got := b.received("r.example")
				if len(got) != 1 || got[0].Report.Policies[0].Summary.Good != 5 || len(b.queue()) != 1 {
					t.Errorf("%d posts, %d mails, %+v", len(got), len(b.queue()), b.jobs())
				}
				if j := b.one(); j.State != tlsrpt.Queued || n > 0 && !strings.Contains(b.logged(), "disk full") {
					t.Errorf("%+v\n%s", j, b.logged())
				}
				b.end()
			})
		}
	}
}
