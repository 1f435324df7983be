package relay

// lineEnds holds content to CRLF: a CR or LF that stands alone is where two
// servers can see two different messages (RFC 5321, Section 2.3.8; ledger
// SMUG-02). The zero value refuses them.
type lineEnds struct {
	normalize bool
	cr        bool // the last octet was a CR
	out       []byte
}

// convert returns the next octets as they are to be stored; ok is false for
// what is refused. The result is valid until the next call.
func (l *lineEnds) convert(p []byte, last bool) (out []byte, ok bool) {
	l.out = l.out[:0]
	for _, c := range p {
		switch {
		case l.cr && c == '\n':
			l.out = append(l.out, '\r', '\n')
			l.cr = false
			continue
		case l.cr:
			if !l.normalize {
				return nil, false
			}
			l.out = append(l.out, '\r', '\n')
			l.cr = false
		}
		switch c {
		case '\r':
			l.cr = true
		case '\n':
			if !l.normalize {
				return nil, false
			}
			l.out = append(l.out, '\r', '\n')
		default:
			l.out = append(l.out, c)
		}
	}
	if last && l.cr {
		if !l.normalize {
			return nil, false
		}
		l.out = append(l.out, '\r', '\n')
		l.cr = false
	}
	return l.out, true
}
