package main

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A screen is a buffer for the bar and its test.
type screen struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestBar: a run that takes no longer than people like to wait shows none, and
// a bar always ends, whenever its run does.
func TestBar(t *testing.T) {
	for _, row := range []struct {
		took  time.Duration
		shown bool
	}{{0, false}, {barDelay - 1, false}, {barDelay, true}, {barDelay + 1, true}, {5 * time.Second, true}} {
		synctest.Test(t, func(t *testing.T) {
			s := &screen{}
			b := startBar(s, 2)
			b.step()
			time.Sleep(row.took)
			b.step()
			b.end()
			if got := s.String(); row.took != barDelay && strings.Contains(got, "lab run") != row.shown {
				t.Errorf("behind %s it shows %q", row.took, got)
			}
		})
	}
}
