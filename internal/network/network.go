// Package network says whom DNS may lead us to. What DNS answers about MX
// hosts, policy hosts and report endpoints may only lead to public addresses,
// unless the operator lists the network (ledger STS-3.3-20). Routes and
// bounce_via are the operator's own word and are not asked.
package network

import (
	"context"
	"net"
)

// A Dialer opens connections. It is the one injected thing: SMTP, policy
// fetches and report POSTs all dial through it, always by IP address and
// port, after the Guard has spoken. The lab maps host addresses and ports to
// free loopback ports with it. *net.Dialer is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}
