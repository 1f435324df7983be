package tlsrpt

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// A Sender makes reports of what is tallied and sends them (RFC 8460). Its
// methods may be called concurrently.
type Sender struct {
	o        Options
	suppress suppression
	poster   interface { // a poster, but in tests of the loop
		post(ctx context.Context, u *url.URL, payload []byte) answer
	}
	pace   pace
	agenda agenda

	kick    chan struct{} // something is due
	free    chan struct{} // one for each worker that has nothing to do
	workers sync.WaitGroup
	lastRun atomic.Int64 // Unix seconds of the last attempt
}

// NewSender returns a Sender that does nothing before Run. It fails when o
// makes no sense.
func NewSender(o Options) (*Sender, error) {
	if o.Store == nil || o.Resolver == nil {
		return nil, errors.New("reports need a Store and a Resolver")
	}
	if err := o.Check(); err != nil {
		return nil, err
	}
	o = o.defaults()
	s := &Sender{o: o, suppress: newSuppression(o.Suppress), kick: make(chan struct{}, 1), free: make(chan struct{}, o.Workers), pace: pace{gap: o.HostGap}}
	s.poster = poster{Resolver: o.Resolver, Dialer: o.Dialer, Guard: o.Guard, Roots: o.Roots, Strict: o.Strict, Limit: o.Limit}
	s.agenda = agenda{store: o.Store, salt: o.Submitter().String(), spread: o.Spread}
	for range o.Workers {
		s.free <- struct{}{}
	}
	return s, nil
}

// Idle says why nothing is sent at all, "" if something is.
func (s *Sender) Idle() string {
	if s.o.Contact.IsNull() {
		return "no contact is configured"
	}
	return ""
}

// rescan is how often the tallies of past days are looked at: sessions may come
// late.
const rescan = time.Hour

// storeWait is how long to wait when the store cannot be used.
const storeWait = 10 * time.Second

// Run makes and sends reports until ctx ends, and waits for what it has begun.
func (s *Sender) Run(ctx context.Context) error {
	defer s.workers.Wait()
	s.introduce(ctx)
	day := DayOf(time.Now())
	for {
		if now := time.Now(); DayOf(now) != day {
			day = DayOf(now)
			s.daily(ctx, now)
		}
		next, err := s.work(ctx)
		if err != nil && ctx.Err() == nil {
			s.o.Log.Error().Err(err).Msg("TLS reports have to wait for the store")
			next = storeWait
		}
		t := time.NewTimer(max(0, min(next, time.Until(nextDay(time.Now())))))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-s.kick:
			t.Stop()
		case <-t.C:
		}
	}
}

// introduce says at start-up what will not work.
func (s *Sender) introduce(ctx context.Context) {
	switch {
	case s.Idle() != "":
		s.o.Log.Info().Str("reason", s.Idle()).Msg("TLS reports are not sent")
	case len(s.o.Keys) == 0: // ledger RPT-3-28
		s.o.Log.Warn().Str("domain", s.o.Submitter().String()).Msg("TLS reports are not sent by mail: they must be signed, and there is no DKIM key of this domain")
	}
	s.daily(ctx, time.Now())
}

// daily checks the published keys and forgets what is old.
func (s *Sender) daily(ctx context.Context, now time.Time) {
	s.agenda.expire()
	for _, k := range s.o.Keys {
		warnings, err := k.Check(ctx, s.o.Resolver)
		for _, w := range warnings {
			s.o.Log.Warn().Msg("DKIM key " + w)
		}
		if err != nil && ctx.Err() == nil {
			s.o.Log.Warn().Err(err).Msg("DKIM key of TLS reports")
		}
	}
	today := DayOf(now)
	n, err := s.o.Store.PruneReports(ctx, today.Add(-KeepDays), today.Add(-KeepAllDays))
	if err != nil && ctx.Err() == nil {
		s.o.Log.Error().Err(err).Msg("old TLS reports are not forgotten")
	} else if n > 0 {
		s.o.Log.Info().Int("reports", n).Msg("old TLS reports are forgotten")
	}
}

// work opens what is to be opened now, gives what is due to workers, and says
// how long until there is more to do.
func (s *Sender) work(ctx context.Context) (time.Duration, error) {
	if s.Idle() != "" {
		return Never, nil
	}
	openings, next, err := s.agenda.take(ctx, time.Now())
	if err == nil && len(openings) > 0 {
		for i := range openings {
			openings[i].ID = s.newID(openings[i].Day, openings[i].Domain)
		}
		if _, err = s.o.Store.OpenReports(ctx, openings); err != nil {
			s.agenda.expire() // looked for again
		}
	}
	if err != nil {
		return 0, err
	}
	for len(s.free) > 0 {
		jobs, wait, err := s.o.Store.ClaimReports(ctx, len(s.free))
		if err != nil {
			return 0, err
		}
		for _, j := range jobs {
			<-s.free // only this goroutine takes
			s.workers.Go(func() { s.serve(ctx, j) })
		}
		if len(jobs) == 0 {
			return min(next, wait), nil
		}
	}
	return next, nil // a worker that is done kicks
}

// serve does one thing for a claimed report and writes it down.
func (s *Sender) serve(ctx context.Context, j Job) {
	defer s.wake()
	defer func() { s.free <- struct{}{} }()
	out, ok := s.attempt(ctx, j)
	s.lastRun.Store(time.Now().Unix())
	if !ok {
		return // the claim ends with the process
	}
	s.tell(j, out)
	s.finish(ctx, out)
}

// wake makes Run look for work.
func (s *Sender) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// finish writes an outcome, however long it takes: what the other side knows
// must be written down. When ctx ends it tries once more.
func (s *Sender) finish(ctx context.Context, out Outcome) {
	for {
		last := ctx.Err() != nil
		err := s.o.Store.FinishReport(context.WithoutCancel(ctx), out)
		if err == nil || errors.Is(err, ErrLost) {
			break
		}
		s.o.Log.Error().Err(err).Str("domain", out.Domain.String()).Msg("what became of a TLS report is not written down")
		if last {
			return
		}
		t := time.NewTimer(storeWait)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
	for _, m := range out.Mail {
		s.o.Queued(m.To)
	}
}

func (s *Sender) log(j Job) *zerolog.Logger {
	l := s.o.Log.With().Str("domain", j.Domain.String()).Str("day", string(j.Day)).Str("report_id", j.ID).Logger()
	return &l
}

// tell logs what became of a report.
func (s *Sender) tell(j Job, out Outcome) {
	l := s.log(j)
	if len(out.Parts) == 0 {
		l.Info().Str("state", string(out.State)).Str("reason", out.Why).Msg("TLS report: " + describe(out.State, out.Why))
		return
	}
	for _, p := range out.Parts {
		state := p.State
		if state == Pending && p.Tries == 0 && len(out.Mail) == 0 {
			continue // new
		}
		for _, m := range out.Mail {
			if m.RUA == p.RUA {
				state = Queued
			}
		}
		l.Info().Str("rua", p.RUA).Str("state", string(state)).Str("reason", p.Why).Dur("next", p.Due).Msg("TLS report: " + describe(state, p.Why))
	}
}

func describe(s State, why string) string {
	word := string(s)
	if s == "" || s == Pending {
		word = "tried again later"
	}
	if why == "" {
		return word
	}
	return fmt.Sprintf("%s: %s", word, why)
}
