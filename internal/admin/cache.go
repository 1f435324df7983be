package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/relay"
	"stsrelay/stscache"
)

func (s *Server) cacheList(w http.ResponseWriter, r *http.Request) {
	enc, sent := json.NewEncoder(w), false
	for e, err := range s.o.Entries.Policies(r.Context()) {
		if err != nil {
			s.fail(w, r, err, sent)
			return
		}
		v := viewPolicy(e)
		v.Lines = nil
		if enc.Encode(v) != nil {
			return
		}
		sent = true
	}
}

func (s *Server) cacheShow(w http.ResponseWriter, r *http.Request) {
	d, ok := domainOf(w, r)
	if !ok {
		return
	}
	if e, ok := s.entry(w, r, d); ok {
		writeJSON(w, viewPolicy(e))
	}
}

// entry finds what is cached of a domain, and answers when there is nothing.
func (s *Server) entry(w http.ResponseWriter, r *http.Request, d addr.Domain) (e stscache.Entry, ok bool) {
	e, err := s.o.Entries.Policy(r.Context(), d)
	if errors.Is(err, stscache.ErrNotFound) {
		http.Error(w, fmt.Sprintf("no MTA-STS policy of %s is cached", d), http.StatusNotFound)
		return e, false
	}
	if err != nil {
		s.fail(w, r, err, false)
	}
	return e, err == nil
}

func (s *Server) cacheRefresh(w http.ResponseWriter, r *http.Request) {
	d, ok := domainOf(w, r)
	if !ok {
		return
	}
	st := s.o.Policies.Refresh(r.Context(), d)
	if st.Err != nil {
		text := fmt.Sprintf("%s: %v", d, st.Err)
		if st.Policy != nil {
			text += fmt.Sprintf("; the policy of %s stays in force until %s", st.Fetched.UTC().Format(time.DateTime), st.Expires.UTC().Format(time.DateTime))
		}
		http.Error(w, text, http.StatusBadGateway)
		return
	}
	if e, ok := s.entry(w, r, d); ok {
		writeJSON(w, viewPolicy(e))
	}
}

func (s *Server) cachePurge(w http.ResponseWriter, r *http.Request) {
	d, ok := domainOf(w, r)
	if !ok {
		return
	}
	if _, ok := s.entry(w, r, d); !ok {
		return
	}
	if err := s.o.Policies.Purge(r.Context(), d); err != nil {
		s.fail(w, r, err, false)
		return
	}
	s.o.Log.Info().Str("domain", d.String()).Msg("operator purged a cached policy")
	s.o.Retry(relay.Destination(addr.DomainHop(d).String()))
	writeJSON(w, struct{}{})
}

func domainOf(w http.ResponseWriter, r *http.Request) (addr.Domain, bool) {
	d, err := addr.ParseDomain(r.PathValue("domain"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return d, err == nil
}
