package boltstore

import (
	"sync"
	"time"
)

// stepNoticed is how far the wall clock may drift from the monotonic one
// between two looks before it counts as set (design.md: clock jumps).
const stepNoticed = time.Minute

// A clock is wall time, watched: due times are persisted as wall time, so that
// they mean something after a restart, and a clock that was set back must not
// make mail wait longer than planned.
type clock struct {
	read    func() (wall time.Time, mono time.Duration)
	stepped func(by time.Duration)

	mu   sync.Mutex
	wall time.Time     // of the last look
	mono time.Duration // of the last look
}

func newClock(read func() (time.Time, time.Duration), stepped func(time.Duration)) *clock {
	c := &clock{read: read, stepped: stepped}
	c.wall, c.mono = read()
	return c
}

// now returns the wall time in nanoseconds since 1970 and calls stepped, in
// its own goroutine's time, when the clock was set since the last look.
func (c *clock) now() int64 {
	c.mu.Lock()
	wall, mono := c.read()
	by := wall.Round(0).Sub(c.wall.Round(0)) - (mono - c.mono)
	c.wall, c.mono = wall, mono
	c.mu.Unlock()
	if by > stepNoticed || by < -stepNoticed {
		c.stepped(by)
	}
	return wall.UnixNano()
}

// elapsed is monotonic: leases are measured by it, whatever the wall says.
func (c *clock) elapsed() time.Duration {
	_, mono := c.read()
	return mono
}
