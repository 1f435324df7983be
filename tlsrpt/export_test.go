package tlsrpt

import (
	"context"
	"net/url"
	"testing"
	"time"
)

// Answer is what a fake endpoint gives.
type Answer = answer

type fakePoster func(ctx context.Context, u *url.URL, payload []byte) answer

func (f fakePoster) post(ctx context.Context, u *url.URL, payload []byte) answer {
	return f(ctx, u, payload)
}

// PostBy has reports go to f: there are no sockets in a bubble.
func (s *Sender) PostBy(f func(ctx context.Context, u *url.URL, payload []byte) Answer) {
	s.poster = fakePoster(f)
}

// OpensAt is when a report is made.
func OpensAt(r Ref, salt string, spread time.Duration, since time.Time) time.Time {
	return opensAt(r, salt, spread, since)
}

// VerifyDKIM is the verifier of the tests.
func VerifyDKIM(message []byte, keys map[string]string) ([]map[string]string, error) {
	return verifyDKIM(message, keys)
}

// Valid checks a report against the schema.
func Valid(t testing.TB, report []byte) { t.Helper(); valid(t, report) }

// Gunzip unpacks a payload.
func Gunzip(t testing.TB, b []byte) []byte { t.Helper(); return gunzip(t, b) }
