package stscache

import (
	"errors"
	"time"
)

// retryFetch is how long a failed fetch is not repeated while the record has
// the same id (RFC 8461, Section 3.3; ledger STS-3.3-08).
const retryFetch = 5 * time.Minute

// A step says what to do with what is kept.
type step struct {
	fetch  bool  // ask the policy host
	forget bool  // nothing that is kept has a meaning any more
	err    error // why nothing newer can be had without a fetch
}

// next weighs what is kept, what discovery found (an id, or an error of Status),
// and the time (RFC 8461, Sections 3.3 and 5.1).
func next(k *kept, id string, err error, now time.Time) step {
	live := k.live(now)
	switch {
	case errors.Is(err, ErrLookup):
		return step{err: err}
	case err != nil: // never by itself the end of a live policy (ledger STS-3.1-10), but of mode none (STS-8.3-02)
		return step{err: err, forget: k.policy != nil && (!live || k.policy.Mode == None)}
	case live && k.id == id:
		return step{}
	case k.failedID == id && k.failures > 0 && since(k.failedAt, now) < retryFetch:
		return step{err: k.failureError()}
	}
	return step{fetch: true}
}
