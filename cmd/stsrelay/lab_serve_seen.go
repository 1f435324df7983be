package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/lab"
)

// A servedSession is one connection to an MX host, as the host saw it.
type servedSession struct {
	Host     string   `json:"host"`
	Conn     int      `json:"connection"`
	STARTTLS bool     `json:"starttls"`
	SNI      string   `json:"sni,omitempty"`
	TLS      string   `json:"tls,omitempty"`       // version, "" in the clear
	TLSError string   `json:"tls_error,omitempty"` // why there is none
	Told     []string `json:"recipients_told"`     // domains of those that it named
	Messages int      `json:"messages"`            // that the host took
}

// sessionsOf lists the connections to a host. The relay under test is a
// stranger: what it said is not to be believed to be text.
func sessionsOf(h *lab.MXHost) (list []servedSession) {
	at := func(n int) *servedSession {
		i := slices.IndexFunc(list, func(s servedSession) bool { return s.Conn == n })
		if i < 0 {
			list = append(list, servedSession{Host: h.Name(), Conn: n, Told: []string{}})
			i = len(list) - 1
		}
		return &list[i]
	}
	for _, l := range h.Transcript() {
		s := at(l.Conn)
		word, rest, _ := strings.Cut(l.Text, ":")
		switch {
		case l.Server:
		case strings.EqualFold(strings.TrimSpace(l.Text), "STARTTLS"):
			s.STARTTLS = true
		case strings.EqualFold(word, "RCPT TO"):
			_, domain, _ := strings.Cut(rest, "@")
			domain, _, _ = strings.Cut(strings.ToLower(domain), ">")
			if !slices.Contains(s.Told, domain) {
				s.Told = append(s.Told, domain)
			}
		}
	}
	for _, hs := range h.Handshakes() {
		s := at(hs.Conn)
		s.SNI = hs.SNI
		if hs.State != nil {
			s.TLS = tls.VersionName(hs.State.Version)
		} else if hs.Err != nil {
			s.TLSError = hs.Err.Error()
		}
	}
	for _, m := range h.Messages() {
		at(m.Conn).Messages++
	}
	return list
}

// String is "mx.ok.test: connected, STARTTLS, SNI mx.ok.test, TLS 1.3, delivered over TLS".
func (s servedSession) String() string {
	parts := []string{"connected"}
	if s.STARTTLS {
		parts = append(parts, "STARTTLS")
		if s.SNI == "" {
			parts = append(parts, "no SNI")
		} else {
			parts = append(parts, "SNI "+s.SNI)
		}
	}
	if s.TLSError != "" {
		parts = append(parts, "no TLS ("+s.TLSError+")")
	}
	if s.TLS != "" {
		parts = append(parts, s.TLS)
	}
	switch {
	case s.Messages > 0 && s.TLS == "":
		parts = append(parts, "delivered in the clear")
	case s.Messages > 0:
		parts = append(parts, "delivered over TLS")
	case len(s.Told) > 0:
		parts = append(parts, "named a recipient, gave up")
	default:
		parts = append(parts, "gave up")
	}
	return printable(s.Host + ": " + strings.Join(parts, ", "))
}

// blink is how often the servers are looked at.
const blink = 50 * time.Millisecond

// A watcher prints what is new. Its numbers say what has been printed.
type watcher struct {
	w        *lab.World
	list     []*trial
	p        printer
	messages map[*lab.MXHost]int
	sessions map[*lab.MXHost]int // that were over
	fetches  map[*lab.PolicyHost]int
}

// watch prints sessions and messages until ctx ends.
func watch(ctx context.Context, w *lab.World, list []*trial, p printer) {
	s := &watcher{w, list, p, map[*lab.MXHost]int{}, map[*lab.MXHost]int{}, map[*lab.PolicyHost]int{}}
	tick := time.NewTicker(blink)
	defer tick.Stop()
	for {
		s.look()
		select {
		case <-ctx.Done():
			s.look()
			return
		case <-tick.C:
		}
	}
}

// look prints a message as it is taken, and a session without one when no
// connection to its host is open any more.
func (s *watcher) look() {
	for _, h := range s.w.Policies() {
		if n := h.Hits(); n > s.fetches[h] {
			s.fetches[h] = n
			s.say("%s: fetched the policy", h.Host())
		}
	}
	for _, h := range s.w.MXHosts() {
		over := h.Open() == 0 // looked at first: what follows is of sessions that are over then
		if h.Connections() == s.sessions[h] {
			continue
		}
		messages := h.Messages()
		for _, m := range messages[s.messages[h]:] {
			s.say("%s: took a message to %s, %s", h.Name(), strings.Join(m.To, ", "), wire(m.TLS))
		}
		s.messages[h] = len(messages)
		if !over {
			continue
		}
		for _, c := range sessionsOf(h) {
			if c.Conn > s.sessions[h] && c.Messages == 0 {
				s.say("%s", c)
			}
			s.sessions[h] = max(s.sessions[h], c.Conn)
		}
	}
}

func (s *watcher) say(format string, args ...any) {
	fmt.Fprintf(s.p.w, "%s  %s\n", time.Now().Format(time.TimeOnly), printable(fmt.Sprintf(format, args...)))
}
