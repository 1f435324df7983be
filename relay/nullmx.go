package relay

import (
	"context"
	"time"

	"stsrelay/internal/addr"
)

// nullMXLimit is the time for asking about one domain while a client waits.
const nullMXLimit = 10 * time.Second

// isNullMX reports whether the domain of an address says that it takes no mail
// (RFC 7505). Doubt is no: then the message is taken, and the queue finds out.
// After one question that had no answer, this client's addresses are asked about
// no more: it has waited for it.
func (s *session) isNullMX(a addr.Address) bool {
	d, ok := a.Domain()
	if !ok || s.l.o.NullMX == nil || s.dnsFails {
		return false
	}
	ctx, cancel := context.WithTimeout(s.ctx, nullMXLimit)
	defer cancel()
	null, err := s.l.o.NullMX(ctx, d)
	s.dnsFails = ctx.Err() != nil
	return err == nil && null
}
