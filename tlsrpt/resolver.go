package tlsrpt

import (
	"context"

	"stsrelay/internal/addr"
	"stsrelay/internal/resolver"
)

// Resolver is what reports ask of DNS. *resolver.Client is one.
type Resolver interface {
	// TXT looks up the key that our signatures must verify with.
	TXT(ctx context.Context, name string) (resolver.Answer[string], error)
	// FreshTXT looks up _smtp._tls past our own cache: a report goes where the
	// domain wants it now (ledger RPT-8-02).
	FreshTXT(ctx context.Context, name string) (resolver.Answer[string], error)
	Addresses(ctx context.Context, host addr.Host) (resolver.Addresses, error)
}
