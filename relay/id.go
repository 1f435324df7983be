package relay

import (
	"crypto/rand"
	"strconv"
	"time"
)

// crockford is the alphabet of IDs (Crockford's base 32): no I, L, O or U, so
// that an ID read out on the telephone is the ID that was written.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// The parts of an ID, in characters of five bits: microseconds since 1970 reach
// until the year 3111, and two IDs of the same microsecond differ but for one
// case in 2^35.
const (
	idTime   = 11
	idRandom = 7
)

// NewID returns an ID that sorts behind all earlier ones of this machine and is
// unique among all machines, such as "1HDVZQ4K7M2P0T8X5A".
func NewID() ID { return newID(time.Now()) }

func newID(now time.Time) ID {
	var b [idTime + idRandom]byte
	_, _ = rand.Read(b[idTime:]) // never fails, by its contract
	for i := idTime; i < len(b); i++ {
		b[i] = crockford[b[i]&31]
	}
	t := uint64(now.UnixMicro())
	for i := idTime - 1; i >= 0; i-- {
		b[i] = crockford[t&31]
		t >>= 5
	}
	return ID(b[:])
}

// EntryID derives the ID of entry i (from 0) of a message with n entries: the
// message's own ID if there is only one, else with a number behind it. All
// entries of a message sort behind each other in order of i.
func EntryID(message ID, i, n int) ID {
	if n == 1 {
		return message
	}
	number := strconv.Itoa(i + 1)
	for len(number) < len(strconv.Itoa(n)) {
		number = "0" + number
	}
	return message + "-" + ID(number)
}
