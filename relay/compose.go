package relay

import (
	"stsrelay/delivery"
	"stsrelay/internal/addr"
)

// A Letter is a message of our own, such as a DSN or a TLS report.
type Letter struct {
	ID      ID           // NewID
	From    addr.Address // null for DSNs (RFC 3461, Section 6.1)
	To      addr.Address
	Options Options
	Content []byte       // with CRLF
	Via     addr.NextHop // the operator's fixed way for it; zero: by MX
}

// Compose makes a Letter ready for the queue. Nobody is notified of what
// becomes of it: its NOTIFY is NEVER (RFC 3461, Section 6.1; ledger DSN-6.1-01).
// It is ordinary mail otherwise: MTA-STS and DANE of the recipient's domain
// apply (ledger X-10), unless its Options say that it is a report (ledger X-09).
func Compose(l Letter) Composed {
	o := l.Options
	o.Body, o.EightBit = Body7Bit, false
	for _, c := range l.Content {
		if c > 0x7f {
			o.Body, o.EightBit = Body8BitMIME, true
			break
		}
	}
	o.UTF8 = o.UTF8 || l.To.NeedsUTF8() || l.From.NeedsUTF8()
	dest := Destination(l.To.NextHop().String())
	if !l.Via.IsZero() {
		dest = via + Destination(l.Via.String())
		o.Demand = delivery.Default
	}
	return Composed{
		Message: Message{ID: l.ID, From: l.From, Options: o, Size: int64(len(l.Content)),
			Entries: []NewEntry{{ID: l.ID, Destination: dest, To: []Recipient{{Address: l.To, Notify: "NEVER"}}}}},
		Body: l.Content,
	}
}
