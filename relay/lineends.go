package relay

// lineEnds makes a CRLF of each bare CR and each bare LF, for clients that know
// no better (ledger SMUG-03).
type lineEnds struct {
	cr  bool // the last octet was a CR
	out []byte
}

// mend returns the next octets as they are to be stored. Last says that there
// are no more. The result is valid until the next call.
func (l *lineEnds) mend(p []byte, last bool) []byte {
	l.out = l.out[:0]
	for _, c := range p {
		if l.cr && c != '\n' || c == '\n' {
			l.out = append(l.out, '\r', '\n')
		}
		l.cr = c == '\r'
		if c != '\r' && c != '\n' {
			l.out = append(l.out, c)
		}
	}
	if last && l.cr {
		l.out = append(l.out, '\r', '\n')
		l.cr = false
	}
	return l.out
}
