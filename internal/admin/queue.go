package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"stsrelay/relay"
)

// listRequest and editRequest are what the client posts.
type listRequest struct {
	Filter relay.Filter
	Limit  int // 0: everything
}

type editRequest struct {
	Filter relay.Filter
	Action relay.Action
}

func (s *Server) queueList(w http.ResponseWriter, r *http.Request) {
	var req listRequest
	if !readJSON(w, r, &req) {
		return
	}
	enc := json.NewEncoder(w)
	var after relay.Cursor
	for sent := 0; ; {
		entries, next, err := s.o.Queue.List(r.Context(), req.Filter, after, 500)
		if err != nil {
			s.fail(w, r, err, sent > 0)
			return
		}
		now := time.Now()
		for _, e := range entries {
			if req.Limit > 0 && sent == req.Limit {
				return
			}
			if enc.Encode(viewEntry(e, now)) != nil {
				return // the client has gone
			}
			sent++
		}
		if next == "" {
			return
		}
		after = next
	}
}

// verbs are what may be done to the queue.
var verbs = []relay.Verb{relay.VerbRetry, relay.VerbHold, relay.VerbRelease, relay.VerbDelete, relay.VerbBounce}

func (s *Server) queueEdit(w http.ResponseWriter, r *http.Request) {
	var req editRequest
	if !readJSON(w, r, &req) {
		return
	}
	if !slices.Contains(verbs, req.Action.Verb) {
		http.Error(w, fmt.Sprintf("%q is not one of %v", req.Action.Verb, verbs), http.StatusBadRequest)
		return
	}
	done, err := s.o.Queue.Edit(r.Context(), req.Filter, req.Action)
	if err != nil {
		s.fail(w, r, err, false)
		return
	}
	if !req.Action.DryRun {
		s.o.Log.Info().Str("action", string(req.Action.Verb)).Str("reason", req.Action.Reason).
			Interface("filter", req.Filter).Int("entries", done.Count).Msg("operator changed the queue")
		switch req.Action.Verb {
		case relay.VerbRetry, relay.VerbRelease, relay.VerbBounce:
			s.o.Retry(done.Destinations...)
		}
	}
	writeJSON(w, done)
}
