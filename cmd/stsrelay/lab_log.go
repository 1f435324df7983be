package main

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
)

// A labLog keeps what the relay logs, so that each message's part of it can be
// told.
type labLog struct {
	mu     sync.Mutex  // guards what follows
	copies []io.Writer // get every line as it is
	lines  []logLine
}

// A logLine is one event.
type logLine struct {
	Level       string `json:"level"`
	Message     string `json:"message"`
	Err         string `json:"error"`
	ID          string `json:"queue_id"`
	Domain      string `json:"domain"`
	Destination string `json:"destination"`
	Status      string `json:"status"`
	Reason      string `json:"reason"`
	TLS         string `json:"tls"`
	Attempt     int    `json:"attempt"`
}

// maxLogLines bounds what a run keeps: a relay that has gone mad must not take
// the computer with it.
const maxLogLines = 20_000

func (l *labLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.copies {
		if _, err := w.Write(p); err != nil {
			return 0, err
		}
	}
	var line logLine
	if err := json.Unmarshal(p, &line); err != nil {
		line = logLine{Level: "unreadable", Message: strings.TrimSpace(string(p))}
	}
	if len(l.lines) < maxLogLines {
		l.lines = append(l.lines, line)
	}
	return len(p), nil
}

// about returns the lines that speak of a domain or of one of the messages.
func (l *labLog) about(domain string, ids ...string) (list []logLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if line.Domain == domain || line.Destination == domain || line.ID != "" && slices.Contains(ids, line.ID) {
			list = append(list, line)
		}
	}
	return list
}

// attempt returns the line of an attempt to deliver a message.
func (l *labLog) attempt(id string, n int) (line logLine, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.lines, func(line logLine) bool { return line.ID == id && line.Attempt == n && line.Status != "" })
	if i < 0 {
		return line, false
	}
	return l.lines[i], true
}

func (l logLine) String() string {
	s := l.Level + " " + l.Message
	if l.Err != "" {
		s += ": " + l.Err
	}
	return s
}

// trust is how far the connection of the attempt is to be trusted, in the lab's
// words.
func (l logLine) trust() string {
	word, _, _ := strings.Cut(strings.ToLower(l.TLS), " ")
	if word == "" {
		return "plaintext"
	}
	return word
}
