package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/tlsrpt"
)

// Reports is what the commands do with TLS reports. *tlsrpt.Sender serves it.
type Reports interface {
	List(ctx context.Context, day tlsrpt.Day) ([]tlsrpt.Job, error)
	Show(ctx context.Context, domain addr.Domain, day tlsrpt.Day) ([]tlsrpt.Shown, error)
	SendNow(ctx context.Context, q tlsrpt.Request) ([]tlsrpt.Job, error)
}

// ReportEntry is one line of `tlsrpt list --json`: a report, or what is tallied
// and no report yet.
type ReportEntry struct {
	Day       string       `json:"day"` // UTC
	Domain    string       `json:"domain"`
	Number    int          `json:"number"` // of the day's reports, from 1; 0: no report yet
	ReportID  string       `json:"report_id,omitempty"`
	State     string       `json:"state"`
	Why       string       `json:"why,omitempty"`
	Successes int64        `json:"successful_sessions"`
	Failures  int64        `json:"failed_sessions"`
	Copy      bool         `json:"copy,omitempty"` // for a test: the domain gets its report all the same
	Next      time.Time    `json:"next,omitzero"`  // when it is made, or tried
	Parts     []ReportPart `json:"destinations"`
}

// ReportPart is one destination of a report.
type ReportPart struct {
	RUA   string    `json:"rua"`
	State string    `json:"state"`
	Why   string    `json:"why,omitempty"`
	Tries int       `json:"tries"`
	Next  time.Time `json:"next,omitzero"`
	Queue string    `json:"queue_id,omitempty"` // of report mail
}

// ReportShown is a report as it is or would be sent.
type ReportShown struct {
	ReportEntry
	FileName string          `json:"file_name"`
	Report   json.RawMessage `json:"report"`
}

// ReportRequest is what `tlsrpt send --now` wants.
type ReportRequest struct {
	Day    string   `json:"day,omitempty"`    // "": all
	Domain string   `json:"domain,omitempty"` // "": all
	To     []string `json:"to,omitempty"`     // a copy goes there
}

func viewReport(j tlsrpt.Job, now time.Time) ReportEntry {
	v := ReportEntry{Day: string(j.Day), Domain: j.Domain.String(), Number: j.Number, ReportID: j.ID, State: string(j.State), Why: j.Why,
		Successes: j.Sums.Successes, Failures: j.Sums.Failures, Copy: j.Copy, Parts: []ReportPart{}}
	next := func(state tlsrpt.State, due time.Duration) time.Time {
		if state != tlsrpt.Pending && state != tlsrpt.Tallied || due == tlsrpt.Never {
			return time.Time{}
		}
		return now.Add(due).UTC().Truncate(time.Second)
	}
	v.Next = next(j.State, j.Due)
	for _, p := range j.Parts {
		v.Parts = append(v.Parts, ReportPart{RUA: p.RUA, State: string(p.State), Why: p.Why, Tries: p.Tries, Next: next(p.State, p.Due), Queue: p.Mail})
	}
	return v
}

// reporting answers for a daemon that sends no reports.
func (s *Server) reporting(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.o.Reports == nil {
			http.Error(w, "TLS reports are off: [tlsrpt] enabled = false", http.StatusConflict)
			return
		}
		h(w, r)
	}
}

func dayOf(w http.ResponseWriter, text string) (tlsrpt.Day, bool) {
	if text == "" {
		return "", true
	}
	day, err := tlsrpt.ParseDay(text)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return day, err == nil
}

func (s *Server) reportList(w http.ResponseWriter, r *http.Request) {
	day, ok := dayOf(w, r.FormValue("day"))
	if !ok {
		return
	}
	jobs, err := s.o.Reports.List(r.Context(), day)
	if err != nil {
		s.fail(w, r, err, false)
		return
	}
	writeReports(w, jobs)
}

func writeReports(w http.ResponseWriter, jobs []tlsrpt.Job) {
	enc := json.NewEncoder(w)
	now := time.Now()
	for _, j := range jobs {
		if enc.Encode(viewReport(j, now)) != nil {
			return // the client has gone
		}
	}
}

func (s *Server) reportShow(w http.ResponseWriter, r *http.Request) {
	domain, ok := domainOf(w, r)
	if !ok {
		return
	}
	day, ok := dayOf(w, r.FormValue("day"))
	if !ok {
		return
	}
	list, err := s.o.Reports.Show(r.Context(), domain, day)
	if err != nil {
		s.fail(w, r, err, false)
		return
	}
	if len(list) == 0 {
		http.Error(w, fmt.Sprintf("nothing was counted of %s, or its reports are forgotten", domain), http.StatusNotFound)
		return
	}
	enc := json.NewEncoder(w)
	now := time.Now()
	for _, x := range list {
		text, err := x.Report.JSON()
		if err != nil {
			s.fail(w, r, err, true)
			return
		}
		if enc.Encode(ReportShown{viewReport(x.Job, now), x.Report.FileName(), text}) != nil {
			return
		}
	}
}

func (s *Server) reportSend(w http.ResponseWriter, r *http.Request) {
	var req ReportRequest
	if !readJSON(w, r, &req) {
		return
	}
	q, err := req.parse()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	jobs, err := s.o.Reports.SendNow(r.Context(), q)
	if err != nil {
		s.fail(w, r, err, false)
		return
	}
	s.o.Log.Info().Int("reports", len(jobs)).Str("day", req.Day).Str("domain", req.Domain).Strs("to", req.To).Msg("operator had TLS reports sent")
	writeReports(w, jobs)
}

func (r ReportRequest) parse() (q tlsrpt.Request, err error) {
	if r.Day != "" {
		if q.Day, err = tlsrpt.ParseDay(r.Day); err != nil {
			return q, err
		}
	}
	if r.Domain != "" {
		if q.Domain, err = addr.ParseDomain(r.Domain); err != nil {
			return q, err
		}
	}
	for _, s := range r.To {
		u, err := tlsrpt.ParseRUA(s)
		if err != nil {
			return q, fmt.Errorf("%q: %w", s, err)
		}
		q.To = append(q.To, u)
	}
	return q, nil
}
