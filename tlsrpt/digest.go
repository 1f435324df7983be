package tlsrpt

import (
	"cmp"
	"slices"
	"time"
)

// A Digest adds up reports that others sent.
type Digest struct {
	Reports    int
	Duplicates int // reports that came more than once, by mail and by HTTPS for example; each counts once
	Sessions   Summary

	days, senders, policies, results, hosts map[string]*Bucket
	seen                                    map[string]bool
	causes                                  map[Cause]int64
}

// A Bucket is what is counted under one key. Sessions may be in several.
type Bucket struct {
	Key string
	Summary
	Reports int
}

// A Cause is one way in which sessions failed.
type Cause struct {
	Result Result
	Domain string // of the policy
	MX     string // "" if it was none's
	Reason string // failure-reason-code
	Sender string // organization
}

// NewDigest is empty.
func NewDigest() *Digest {
	return &Digest{days: map[string]*Bucket{}, senders: map[string]*Bucket{}, policies: map[string]*Bucket{}, results: map[string]*Bucket{}, hosts: map[string]*Bucket{},
		seen: map[string]bool{}, causes: map[Cause]int64{}}
}

// Add counts a report, unless it was counted before.
func (d *Digest) Add(r Received) {
	if id := r.Organization + "\x00" + r.ID + "\x00" + r.Range.Start.String(); r.ID != "" {
		if d.seen[id] {
			d.Duplicates++
			return
		}
		d.seen[id] = true
	}
	d.Reports++
	sum := r.Sums()
	for _, p := range r.Policies {
		count(d.policies, string(p.Policy.Type)+" "+p.Policy.Domain, p.Summary)
		for _, x := range p.Details {
			failed := Summary{Failures: x.Sessions}
			count(d.results, string(x.Result), failed)
			if x.MX != "" {
				count(d.hosts, x.MX, failed)
			}
			d.causes[Cause{x.Result, p.Policy.Domain, x.MX, x.Reason, r.Organization}] += x.Sessions
		}
	}
	d.Sessions = d.Sessions.plus(sum)
	count(d.days, r.Range.Start.Format(time.DateOnly), sum)
	count(d.senders, r.Organization, sum)
}

func (s Summary) plus(t Summary) Summary {
	return Summary{s.Successes + t.Successes, s.Failures + t.Failures}
}

func count(in map[string]*Bucket, key string, s Summary) {
	b := in[key]
	if b == nil {
		b = &Bucket{Key: key}
		in[key] = b
	}
	b.Summary = b.plus(s)
	b.Reports++
}

// Days are in order of time, the others in order of failures.
func (d *Digest) Days() []Bucket {
	return sorted(d.days, func(a, b Bucket) int { return cmp.Compare(a.Key, b.Key) })
}
func (d *Digest) Senders() []Bucket  { return sorted(d.senders, byFailures) }
func (d *Digest) Policies() []Bucket { return sorted(d.policies, byFailures) }
func (d *Digest) Results() []Bucket  { return sorted(d.results, byFailures) }
func (d *Digest) Hosts() []Bucket    { return sorted(d.hosts, byFailures) }

// A CauseCount is a Cause and the sessions that failed by it.
type CauseCount struct {
	Cause
	Sessions int64
}

// Causes are in order of sessions.
func (d *Digest) Causes() (list []CauseCount) {
	for c, n := range d.causes {
		list = append(list, CauseCount{c, n})
	}
	slices.SortFunc(list, func(a, b CauseCount) int {
		return cmp.Or(cmp.Compare(b.Sessions, a.Sessions), cmp.Compare(a.Result, b.Result), cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.MX, b.MX), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Sender, b.Sender))
	})
	return list
}

func byFailures(a, b Bucket) int {
	return cmp.Or(cmp.Compare(b.Failures, a.Failures), cmp.Compare(b.Successes, a.Successes), cmp.Compare(a.Key, b.Key))
}

func sorted(in map[string]*Bucket, by func(a, b Bucket) int) []Bucket {
	list := make([]Bucket, 0, len(in))
	for _, b := range in {
		list = append(list, *b)
	}
	slices.SortFunc(list, by)
	return list
}
