package tlsrpt

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"stsrelay/internal/addr"
)

// DefaultSpread is the time after the end of a day over which its reports are
// spread (RFC 8460, Section 4.1; ledger RPT-4.1-02).
const DefaultSpread = 4 * time.Hour

// opensAt says when the report about a day is made: after the day's end, at a
// time of each domain's own, from a second to spread later (ledger RPT-4.1-02,
// -03). salt makes relays differ. What is first seen at since, later than that,
// waits for the same time in the next span of that length: so neither a restart
// nor sessions that come late make a burst.
func opensAt(r Ref, salt string, spread time.Duration, since time.Time) time.Time {
	end, err := r.Day.Add(1).Start()
	if err != nil {
		return since // a day that is none has ended
	}
	at := end
	if n := int64(spread / time.Second); n > 0 {
		at = end.Add(time.Second + time.Duration(slot(r, salt)%uint64(n))*time.Second)
		if late := since.Sub(at); late > 0 {
			at = at.Add((late + spread - 1) / spread * spread)
		}
	}
	if at.Before(since) {
		return since
	}
	return at
}

func slot(r Ref, salt string) uint64 {
	h := sha256.Sum256([]byte(salt + "\x00" + string(r.Day) + "\x00" + r.Domain.String()))
	return binary.BigEndian.Uint64(h[:])
}

// The bounds of trying again (RFC 8460, Section 5.5; ledger RPT-5.5-01).
const (
	window    = 24 * time.Hour // after the first attempt
	firstWait = 15 * time.Minute
	lastCall  = time.Minute // before the window's end is the last attempt
)

// retry says how long to wait after an attempt that failed, the tries-th one,
// age after the first: twice as long each time, and not less than the other
// side asks for. false: the window is over. jitter is from 0 to 1, and makes up
// to a tenth of the delay.
func retry(tries int, age, asked time.Duration, jitter float64) (time.Duration, bool) {
	left := window - lastCall - age
	if left <= 0 || asked > left {
		return 0, false
	}
	wait := firstWait << min(max(tries, 1)-1, 10)
	wait += time.Duration(float64(wait) / 10 * jitter)
	return min(max(wait, asked), left), true
}

// over reports whether an attempt at this age would come too late.
func over(age time.Duration) bool { return age >= window }

// nextDay is the beginning of the UTC day after now.
func nextDay(now time.Time) time.Time {
	return now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
}

// KeepDays and KeepAllDays are how long reports that have ended, and whatever
// else there is, are kept.
const (
	KeepDays    = 10
	KeepAllDays = 30
)

// A domainSet is policy domains; ".example.com" is those below example.com.
type domainSet map[string]bool

func (s domainSet) has(d addr.Domain) bool {
	name := d.String()
	if s[name] {
		return true
	}
	for i := range len(name) {
		if name[i] == '.' && s[name[i:]] {
			return true
		}
	}
	return false
}
