package relay

import "time"

// A schedule says when a message is tried again, and for how long (RFC 5321,
// Section 4.5.4.1; ledger SMTP-4.5.4.1-01 to -03, -08). It is pure.
//
// The first retries are sooner than the RFC's half hour, since greylisting
// wants a few minutes; it allows "more sophisticated strategies".
type schedule struct {
	Retry  []time.Duration // from the end of one attempt to the next; the last repeats
	Warn   time.Duration   // age at which a sender is told of the delay
	Expire time.Duration   // age at which a message is given up
}

func (s schedule) defaults() schedule {
	if len(s.Retry) == 0 {
		s.Retry = []time.Duration{5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour}
	}
	if s.Warn <= 0 {
		s.Warn = 4 * time.Hour
	}
	if s.Expire <= 0 {
		s.Expire = 5 * 24 * time.Hour
	}
	return s
}

// maxJitter is the part of a delay that chance may add to it.
const maxJitter = 0.1

// delay is how long to wait behind the attempt with this number, from 1. Chance
// is from 0 to 1 and lengthens it by at most maxJitter, never shortens it.
func (s schedule) delay(attempt int, chance float64) time.Duration {
	i := min(max(attempt, 1), len(s.Retry)) - 1
	return s.Retry[i] + time.Duration(maxJitter*chance*float64(s.Retry[i]))
}

// lifetime is the age at which a message is given up, its own if it has one.
func (s schedule) lifetime(own time.Duration) time.Duration {
	if own > 0 {
		return own
	}
	return s.Expire
}

// final reports whether an attempt that begins at this age is the last. So a
// message is never given up before its lifetime has passed, nor without an
// attempt after that: not after a restart or a step of the clock either.
func final(age, lifetime time.Duration) bool { return age >= lifetime }

// within shortens a delay that begins at this age so that the last attempt is
// at the end of the lifetime, but not to less than the first retry: a server
// that said "later" is not asked again at once.
func (s schedule) within(delay, age, lifetime time.Duration) time.Duration {
	return max(0, min(delay, max(lifetime-age, s.Retry[0])))
}

// late reports whether a message of this age is so late that its sender should
// hear of it.
func (s schedule) late(age time.Duration) bool { return age >= s.Warn }
