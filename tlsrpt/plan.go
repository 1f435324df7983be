package tlsrpt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"stsrelay/internal/resolver"
)

// plan decides where a report goes: what the domain's record says now, or what
// the operator says (RFC 8460, Section 3).
func (s *Sender) plan(ctx context.Context, j Job) Outcome {
	out := Outcome{Ref: j.Ref, Lease: j.Lease}
	end := func(state State, format string, a ...any) Outcome {
		out.State, out.Why = state, Clean(fmt.Sprintf(format, a...))
		return out
	}
	switch {
	case s.suppress.domains.has(j.Domain):
		return end(Suppressed, "the operator sends %s no reports", j.Domain)
	case s.o.FailuresOnly && j.Sums.Failures == 0:
		return end(Suppressed, "nothing failed, and only failures are reported")
	}
	record := Record{RUAs: s.o.Replace}
	if len(record.RUAs) == 0 {
		var err error
		if record, err = s.lookUp(ctx, j); err != nil && !temporary(err) {
			return end(Unwanted, "%v", err)
		} else if err != nil {
			return s.lookLater(out, j, err)
		}
	}
	if len(record.RUAs) == 0 {
		return end(Unwanted, "no destination can be used: %s", skipped(record.Skipped))
	}
	out.Parts = s.parts(record)
	if len(s.o.BCC) > 0 && StateOf(out.Parts) == Pending {
		mail, err := s.copies(ctx, j)
		if err != nil {
			s.log(j).Warn().Err(err).Msg("no copy of a TLS report for the operator")
		}
		out.Mail = mail
	}
	return out
}

// lookUp asks past our own cache: it is asked once for a day, and what counts is
// what the domain wants now.
func (s *Sender) lookUp(ctx context.Context, j Job) (Record, error) {
	a, err := s.o.Resolver.FreshTXT(ctx, "_smtp._tls."+j.Domain.String())
	switch {
	case errors.Is(err, resolver.ErrNXDomain):
		return Record{}, ErrNoRecord
	case err != nil:
		return Record{}, err
	}
	return ParseRecord(a.Records)
}

// temporary reports whether an error leaves open what the record says: then
// nothing is thrown away (ledger RPT-3-13).
func temporary(err error) bool {
	return !errors.Is(err, ErrNoRecord) && !errors.Is(err, ErrManyRecords) && !errors.Is(err, ErrRecordSyntax)
}

// recordLife is how long what a record said is good for: a destination that has
// failed for longer is looked up again before it is tried again, since that is
// when its owner may have corrected it.
const recordLife = time.Hour

// lookAgain says whether a domain still wants its report at a destination that
// has failed for some time, and where it wants it besides by now. When that
// cannot be told, nothing has changed.
func (s *Sender) lookAgain(ctx context.Context, j Job, p Part) (fresh []Part, wanted bool) {
	if p.Age < recordLife || over(p.Age) || j.Copy || len(s.o.Replace) > 0 {
		return nil, true
	}
	record, err := s.lookUp(ctx, j)
	if err != nil && temporary(err) {
		return nil, true
	}
	for _, now := range s.parts(record) {
		wanted = wanted || now.RUA == p.RUA
		if !slices.ContainsFunc(j.Parts, func(have Part) bool { return have.RUA == now.RUA }) {
			fresh = append(fresh, now)
		}
	}
	return fresh[:min(len(fresh), max(0, maxParts-len(j.Parts)))], wanted
}

// maxParts bounds the destinations of one report, old ones included.
const maxParts = 4 * MaxRUAs

func (s *Sender) lookLater(out Outcome, j Job, err error) Outcome {
	out.Why = Clean(err.Error())
	var ok bool
	if out.Delay, ok = retry(j.Looks+1, j.Age, 0, rand.Float64()); !ok {
		out.State = GivenUp
	}
	return out
}

func skipped(list []Skipped) string {
	if len(list) == 0 {
		return "there is none"
	}
	return list[0].URI + ": " + list[0].Why
}

// parts are the ways of a report. Those that nothing is sent to are kept for
// the operator to see.
func (s *Sender) parts(r Record) (out []Part) {
	for _, u := range r.RUAs {
		p := Part{RUA: u.String(), State: Pending}
		switch {
		case s.suppress.hasRUA(u):
			p.State, p.Why = Suppressed, "the operator sends no reports there"
		case u.URL() == nil && len(s.o.Keys) == 0:
			p.State, p.Why = Suppressed, "reports by mail must be signed, and there is no DKIM key of "+s.o.Submitter().String()
		}
		out = append(out, p)
	}
	for _, skip := range r.Skipped[:min(len(r.Skipped), MaxRUAs)] {
		out = append(out, Part{RUA: skip.URI, State: Suppressed, Why: skip.Why})
	}
	return out
}
