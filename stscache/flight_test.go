package stscache_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"stsrelay/internal/lab"
	"stsrelay/stscache"
)

// Before a message is given up, a fetch that began under an older id is not
// answer enough (RFC 8461, Section 5.1).
func TestAFetchForAnOlderIDIsFollowedByAnother(t *testing.T) {
	w := newWorld(t, nil)
	answer := make(chan struct{})
	p := w.policy(func(p *lab.Policy) { p.Until = answer })
	first := make(chan stscache.Status, 1)
	go func() { first <- w.Lookup(context.Background(), example) }()
	if err := p.WaitHits(within(t), 1); err != nil {
		t.Fatal(err)
	}
	w.net.DNS.SetTXT("_mta-sts.example.test", "v=STSv1; id=2")
	asked := w.net.DNS.Queries("_mta-sts.example.test", "TXT")
	last := make(chan stscache.Status, 1)
	go func() { last <- w.Refresh(context.Background(), example) }()
	w.until(func() bool { return w.net.DNS.Queries("_mta-sts.example.test", "TXT") > asked })
	close(answer)
	if _, id, err := describe(<-first); id != "1" || err != nil {
		t.Errorf("the first got id %s, %v", id, err)
	}
	if _, id, err := describe(<-last); id != "2" || err != nil {
		t.Errorf("the last got id %s, %v", id, err)
	}
	if p.Hits() != 2 {
		t.Errorf("%d requests", p.Hits())
	}
}

// However many addresses DNS gives for a policy host, few are tried.
func TestAddressesAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	w.policy(func(p *lab.Policy) { p.NoAddress = true })
	for i := range 40 {
		w.net.DNS.Add(fmt.Sprintf("mta-sts.example.test. 0 IN A 127.99.0.%d", i+1))
	}
	w.want("no policy", "", stscache.ErrFetch)
	if n := w.net.Dialer().Total(); n < 2 || n > 8 {
		t.Errorf("%d addresses were dialled", n)
	}
}

// A policy of mode none that lost its record is dropped by the refresh, which
// asks nobody and alerts nobody.
func TestRefreshOfNone(t *testing.T) {
	t.Run("STS-8.3-02 one of mode none without a record is dropped when it is due", func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.policy(nil)
		p.Withdraw()
		w.keep("none", 25*time.Hour, nil)
		w.run()
		w.until(func() bool {
			_, err := w.bolt.Policy(t.Context(), example)
			return errors.Is(err, stscache.ErrNotFound)
		})
		w.stop()
		if n := w.log.having(`"level":"warn"`) + w.log.having(`"level":"error"`); n != 0 || p.Hits() != 0 {
			t.Errorf("%d warnings, %d requests", n, p.Hits())
		}
	})
}
