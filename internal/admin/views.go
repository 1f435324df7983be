// Package admin is the daemon's back door: a Unix socket on which the commands
// ask and act, and a loopback HTTP address for health checks. It decides
// nothing; it shows what the rooms below say and passes on what the operator
// wants.
package admin

import (
	"fmt"
	"strings"
	"time"

	"stsrelay/relay"
	"stsrelay/stscache"
)

// Status is the answer to `stsrelay status`.
type Status struct {
	Schema       string            `json:"schema"` // "stsrelay.status/v1"
	Version      string            `json:"version"`
	Hostname     string            `json:"hostname"`
	Started      time.Time         `json:"started"`
	Config       string            `json:"config"`
	DataDir      string            `json:"data_dir"`
	Enforcement  string            `json:"enforcement"`
	Healthy      bool              `json:"healthy"`
	Listeners    []string          `json:"listeners"`
	Queue        QueueStatus       `json:"queue"`
	Counters     map[string]uint64 `json:"counters"` // since start
	Destinations []Destination     `json:"destinations"`
	Policies     map[string]int    `json:"policies"` // by mode
	Reports      ReportStatus      `json:"tls_reports"`
	DNSSEC       DNSSECStatus      `json:"dnssec"`
	Overrides    int               `json:"overrides"` // domains for which the operator lifts MTA-STS or DANE now
	Warnings     []string          `json:"warnings"`
}

// ReportStatus is how sending TLS reports goes: those about yesterday and today,
// by state.
type ReportStatus struct {
	Idle    string         `json:"idle,omitempty"` // why none is sent
	LastRun time.Time      `json:"last_run,omitzero"`
	States  map[string]int `json:"states"`
}

// DNSSECStatus is whether DNS answers are validated, by the self-test.
type DNSSECStatus struct {
	Validating bool      `json:"validating"`
	DANE       bool      `json:"dane"`            // it is on: validating, or [dns] trust_ad
	Since      time.Time `json:"since,omitzero"`  // of Validating; zero: no test had an answer yet
	Tested     time.Time `json:"tested,omitzero"` // the last test
	Error      string    `json:"error,omitempty"` // of the last test
	TLSAHosts  int       `json:"tlsa_hosts"`      // remembered to have had TLSA records
}

// QueueStatus counts what waits.
type QueueStatus struct {
	Active        int     `json:"active"`
	Deferred      int     `json:"deferred"`
	Held          int     `json:"hold"`
	Bytes         int64   `json:"bytes"`
	OldestSeconds float64 `json:"oldest_seconds"`
}

// Destination is one that needs attention: it failed and backs off.
type Destination struct {
	Name     string    `json:"name"`
	Failures int       `json:"failures"`
	Next     time.Time `json:"next"`
	Reason   string    `json:"reason"`
	Text     string    `json:"text"`
}

// QueueEntry is one line of `queue list --json`: the names of postqueue -j,
// and our own after them.
type QueueEntry struct {
	QueueName    string      `json:"queue_name"` // active, deferred, hold
	QueueID      string      `json:"queue_id"`
	ArrivalTime  int64       `json:"arrival_time"` // Unix seconds
	MessageSize  int64       `json:"message_size"`
	ForcedExpire bool        `json:"forced_expire"`
	Sender       string      `json:"sender"`
	Recipients   []Recipient `json:"recipients"`

	MessageID   string    `json:"message_id"`
	Destination string    `json:"destination"`
	Attempts    int       `json:"attempts"`
	NextAttempt time.Time `json:"next_attempt"`
	HoldReason  string    `json:"hold_reason,omitempty"`
	Reason      string    `json:"reason,omitempty"` // of the last attempt
	Text        string    `json:"text,omitempty"`   // what the server replied, or why in our words
	Policy      string    `json:"policy,omitempty"`
	MX          string    `json:"mx,omitempty"`
	Listener    string    `json:"listener,omitempty"`
	Upstream    string    `json:"upstream_id,omitempty"`
	History     []Event   `json:"history,omitempty"`
}

// Recipient is one recipient that still waits.
type Recipient struct {
	Address     string `json:"address"`
	DelayReason string `json:"delay_reason,omitempty"`
}

// Event is one attempt of the past.
type Event struct {
	At     time.Time `json:"at"`
	MX     string    `json:"mx,omitempty"`
	Reason string    `json:"reason"`
	Code   int       `json:"code,omitempty"`
	Status string    `json:"dsn"`
	Text   string    `json:"text"`
	Policy string    `json:"policy,omitempty"`
	RFC    string    `json:"rfc,omitempty"`
}

func viewEntry(e relay.Entry, now time.Time) QueueEntry {
	v := QueueEntry{
		QueueName: string(stateOf(e)), QueueID: string(e.ID), ArrivalTime: e.Arrived.Unix(),
		MessageSize: e.Size, ForcedExpire: e.Bounce, Sender: e.From.String(),
		MessageID: string(e.Message), Destination: string(e.Destination), Attempts: e.Attempts,
		NextAttempt: now.Add(e.Due).UTC().Truncate(time.Second), HoldReason: e.Held.Reason,
		Listener: e.Options.Listener, Upstream: e.Options.Upstream,
	}
	for _, r := range e.To {
		w := Recipient{Address: r.Address.String()}
		if r.Last != nil {
			w.DelayReason = said(r.Last)
			v.Reason, v.Text, v.Policy, v.MX = string(r.Last.Reason), w.DelayReason, r.Last.Policy, r.Last.MX
		}
		v.Recipients = append(v.Recipients, w)
	}
	for _, n := range e.History {
		v.History = append(v.History, Event{At: n.At.UTC(), MX: n.MX, Reason: string(n.Reason), Code: n.Code,
			Status: fmt.Sprintf("%d.%d.%d", n.Enhanced[0], n.Enhanced[1], n.Enhanced[2]), Text: n.Text, Policy: n.Policy, RFC: n.RFC})
	}
	return v
}

// said is a server's reply as it came, or our own words.
func said(n *relay.Note) string {
	if n.Remote && n.Code != 0 {
		return strings.TrimSpace(fmt.Sprintf("%d %s", n.Code, n.Text))
	}
	return n.Text
}

func stateOf(e relay.Entry) relay.State {
	switch {
	case e.Lease != 0:
		return relay.StateActive
	case e.Held.Held:
		return relay.StateHeld
	}
	return relay.StateDeferred
}

// PolicyEntry is one line of `cache list --json`.
type PolicyEntry struct {
	Domain   string    `json:"domain"`
	Mode     string    `json:"mode"` // "" while only failures are remembered
	ID       string    `json:"id"`
	MX       []string  `json:"mx"`
	MaxAge   float64   `json:"max_age"` // seconds
	Fetched  time.Time `json:"fetched"`
	Expires  time.Time `json:"expires"`
	Used     time.Time `json:"used"`
	Failures int       `json:"failures"`
	Failure  string    `json:"failure,omitempty"`
	FailedAt time.Time `json:"failed_at,omitzero"`
	Lines    []string  `json:"lines,omitempty"` // the policy as served
}

func viewPolicy(e stscache.Entry) PolicyEntry {
	v := PolicyEntry{Domain: e.Domain.String(), ID: e.ID, MX: []string{}, Fetched: e.Fetched.UTC(), Used: e.Used.UTC(),
		Failures: e.Failures, Failure: e.Failure, FailedAt: e.FailedAt.UTC()}
	if e.Body == nil {
		return v
	}
	p, lines, err := stscache.ParsePolicy(e.Body)
	if err != nil {
		v.Failure = err.Error()
		return v
	}
	v.Mode, v.MaxAge, v.Lines = string(p.Mode), p.MaxAge.Seconds(), lines
	v.Expires = e.Fetched.Add(p.MaxAge).UTC()
	for _, q := range p.MX {
		v.MX = append(v.MX, string(q))
	}
	return v
}
