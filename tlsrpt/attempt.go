package tlsrpt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"stsrelay/internal/addr"
)

// attempt does the next thing for a claimed report, one thing at a time, so
// that each is written down before the next: look up where it goes, or try one
// destination. false: we are to stop, and nothing is known.
func (s *Sender) attempt(ctx context.Context, j Job) (Outcome, bool) {
	if len(j.Parts) == 0 {
		if over(j.Age) {
			return Outcome{Ref: j.Ref, Lease: j.Lease, State: GivenUp, Why: j.Why}, true
		}
		out := s.plan(ctx, j)
		return out, ctx.Err() == nil
	}
	out := Outcome{Ref: j.Ref, Lease: j.Lease}
	i := slices.IndexFunc(j.Parts, func(p Part) bool { return p.State == Pending && p.Due <= 0 })
	if i < 0 {
		return out, true
	}
	p := j.Parts[i]
	fresh, wanted := s.lookAgain(ctx, j, p)
	u, err := ParseRUA(p.RUA)
	switch {
	case over(p.Age):
		p.State = GivenUp
	case !wanted:
		p.State, p.Why = Failed, "the domain's record no longer names it; before that: "+p.Why
	case err != nil: // it was read before it was stored
		p.State, p.Why = Failed, Clean(err.Error())
	case u.URL() == nil:
		p, out.Mail = s.mail(ctx, j, p, u.Mailbox())
	default:
		p = s.post(ctx, j, p, u)
	}
	out.Parts = append([]Part{p}, fresh...)
	return out, ctx.Err() == nil || p.State == Sent
}

// build is the report as it is sent. It is the same each time.
func (s *Sender) build(ctx context.Context, j Job) (Report, error) {
	_, tally, err := s.o.Store.Report(ctx, j.Ref)
	if err != nil {
		return Report{}, err
	}
	return Build(tally, s.o.Identity, j.ID)
}

// post tries an https destination.
func (s *Sender) post(ctx context.Context, j Job, p Part, u RUA) Part {
	if wait := s.pace.reserve(u.Host(), j.ID+" "+p.RUA, time.Now()); wait > 0 {
		p.Due = wait // its turn has not come: not an attempt
		return p
	}
	r, err := s.build(ctx, j)
	if err != nil {
		return s.ours(p, err)
	}
	payload, err := r.Payload()
	if err != nil {
		p.State, p.Why = Failed, Clean(err.Error())
		return p
	}
	a := s.poster.post(ctx, u.URL(), payload)
	if a.Cert != nil {
		s.log(j).Warn().Err(a.Cert).Str("rua", p.RUA).Msg("the certificate of a report endpoint does not verify: sent all the same")
	}
	return a.verdict(p, rand.Float64())
}

// ours is a failure at our own side.
func (s *Sender) ours(p Part, err error) Part {
	p.Tries++
	p.Why = Clean("here: " + err.Error())
	return p.later(0, rand.Float64())
}

// reportLife is how long a report may wait in the queue (ledger RPT-5.5-01).
const reportLife = 24 * time.Hour

// mail makes the mail for a mailto destination. A key that is not published
// makes it wait: what it signs must be ignored (RFC 8460, Section 3; ledger
// RPT-3-23).
func (s *Sender) mail(ctx context.Context, j Job, p Part, to addr.Address) (Part, []Mail) {
	keys, err := s.usable(ctx)
	if err != nil {
		p.Tries++
		p.Why = Clean(err.Error())
		return p.later(0, rand.Float64()), nil
	}
	content, err := s.letter(ctx, j, to, keys)
	if err != nil {
		return s.ours(p, err), nil
	}
	return p, []Mail{{RUA: p.RUA, From: s.o.From, To: to, Content: content, Expire: reportLife}}
}

// usable are the keys that verifiers will find; those that cannot be looked up
// just now are given the benefit of the doubt.
func (s *Sender) usable(ctx context.Context) (keys []SigningKey, err error) {
	var errs []error
	for _, k := range s.o.Keys {
		_, err := k.Check(ctx, s.o.Resolver)
		if errors.Is(err, ErrKey) {
			errs = append(errs, err)
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) > 0 {
		return keys, nil
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("no DKIM key of %s", s.o.Submitter())
	}
	return nil, errors.Join(errs...)
}

// letter is a signed report mail.
func (s *Sender) letter(ctx context.Context, j Job, to addr.Address, keys []SigningKey) ([]byte, error) {
	r, err := s.build(ctx, j)
	if err != nil {
		return nil, err
	}
	message, err := Letter{Report: r, From: s.o.From, To: to, Date: time.Now()}.Write()
	if err != nil {
		return nil, err
	}
	return Sign(message, keys)
}

// copies are the mails for the operator.
func (s *Sender) copies(ctx context.Context, j Job) (out []Mail, err error) {
	keys, err := s.usable(ctx)
	if err != nil {
		return nil, err
	}
	for _, to := range s.o.BCC {
		content, err := s.letter(ctx, j, to, keys)
		if err != nil {
			return nil, err
		}
		out = append(out, Mail{From: s.o.From, To: to, Content: content, Expire: reportLife})
	}
	return out, nil
}
