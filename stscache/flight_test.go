package stscache_test

import (
	"fmt"
	"testing"

	"stsrelay/internal/lab"
	"stsrelay/stscache"
)

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
