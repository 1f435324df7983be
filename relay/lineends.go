package relay

import "bytes"

// lineEnds holds content to CRLF: a CR or LF that stands alone is where two
// servers can see two different messages (RFC 5321, Section 2.3.8; ledger
// SMUG-02). The zero value refuses them.
type lineEnds struct {
	normalize bool
	cr        bool // the last octet was a CR
	out       []byte
}

// convert returns the next octets as they are to be stored; ok is false for
// what is refused. Last says that there are no more. The result is valid until
// the next call.
func (l *lineEnds) convert(p []byte, last bool) (out []byte, ok bool) {
	if l.normalize {
		return l.mend(p, last), true
	}
	return p, l.sound(p, last)
}

// sound reports whether each CR and each LF is half of a CRLF.
func (l *lineEnds) sound(p []byte, last bool) bool {
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		line := rest
		if i >= 0 {
			line = rest[:i]
		}
		if l.cr && len(line) > 0 {
			return false // the CR of the octets before stands alone
		}
		if n := len(line); n > 0 {
			l.cr = line[n-1] == '\r'
			if bytes.IndexByte(line[:n-1], '\r') >= 0 {
				return false
			}
		}
		if i < 0 {
			break
		}
		if !l.cr {
			return false
		}
		l.cr, rest = false, rest[i+1:]
	}
	return !last || !l.cr
}

// mend makes a CRLF of each.
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
