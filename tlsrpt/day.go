package tlsrpt

import (
	"fmt"
	"time"
)

// A Day is a UTC day, "2006-01-02".
type Day string

// DayOf is the UTC day of an instant (ledger RPT-4.1-01).
func DayOf(t time.Time) Day { return Day(t.UTC().Format(time.DateOnly)) }

// Day is the UTC day that a session is booked on: the one it started on
// (ledger RPT-4.1-03).
func (s Session) Day() Day { return DayOf(s.Start) }

// ParseDay reads "2006-01-02".
func ParseDay(s string) (Day, error) {
	_, err := Day(s).Start()
	return Day(s), err
}

// Start is the first instant of the day.
func (d Day) Start() (time.Time, error) {
	t, err := time.Parse(time.DateOnly, string(d))
	if err != nil {
		return t, fmt.Errorf("day %q is not of the form 2006-01-02", string(d))
	}
	return t, nil
}

// Add is the day n days later.
func (d Day) Add(n int) Day {
	t, err := d.Start()
	if err != nil {
		return d
	}
	return DayOf(t.AddDate(0, 0, n))
}
