package boltstore

import (
	"bytes"
	"fmt"
	"strings"

	"stsrelay/relay"
	"stsrelay/tlsrpt"
)

// mailSettled writes into a report what became of its mail, in the transaction
// of the attempt. There are no bounces: this is who hears of it (ledger
// RPT-5.3-09).
func (b *batch) mailSettled(message string, res relay.Result) error {
	if !b.mailed || !res.Tried {
		return nil // no report has mail in the queue, or nothing came of it
	}
	return b.mailChanged(message, func(p *part) {
		if p.Tries++; p.First == 0 {
			p.First = b.now
		}
		switch {
		case len(res.Left) > 0:
			p.Why = noteText(res.Note)
		case res.Note == nil:
			p.State, p.Why = tlsrpt.Sent, ""
		default:
			p.State, p.Why = tlsrpt.Failed, noteText(res.Note)
		}
	}, len(res.Left) == 0)
}

// mailDropped is for mail that leaves the queue by an operator's hand.
func (b *batch) mailDropped(message string) error {
	if !b.mailed {
		return nil
	}
	return b.mailChanged(message, func(p *part) { p.State, p.Why = tlsrpt.Failed, "deleted from the queue" }, true)
}

func (b *batch) mailChanged(message string, f func(p *part), gone bool) error {
	v := b.reportMail.Get([]byte(message))
	if v == nil {
		return nil
	}
	parts := bytes.SplitN(v, []byte{0}, 4)
	if len(parts) != 4 {
		return fmt.Errorf("report mail %s: link %q", message, v)
	}
	key, rua := bytes.Clone(v[:len(v)-len(parts[3])-1]), string(parts[3])
	if gone {
		b.delete(b.reportMail, []byte(message))
	}
	return b.changeReport(key, func(r *report) {
		for i := range r.Parts {
			if r.Parts[i].RUA == rua && r.Parts[i].State == tlsrpt.Queued {
				f(&r.Parts[i])
			}
		}
		r.judge()
	})
}

func noteText(n *relay.Note) string {
	if n == nil {
		return ""
	}
	text := []string{string(n.Reason)}
	if n.MX != "" {
		text = append(text, n.MX)
	}
	if n.Code != 0 {
		text = append(text, fmt.Sprint(n.Code))
	}
	return tlsrpt.Clean(strings.Join(append(text, n.Text), " "))
}
