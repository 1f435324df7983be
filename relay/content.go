package relay

import "bytes"

// A contentScan follows content to its end by the rules of go-smtp's reader,
// state by state: were it to see another end, it would take commands for
// content, or content for commands (RFC 5321, Section 4.1.1.4; ledger SMUG-01).
type contentScan struct {
	open  bool // the end is still to come
	state scanState
	cr    bool // the last octet was a CR
	line  int  // octets of the line so far
	bare  bool // there was a CR or LF that was not part of a CRLF
	long  bool // there was a line of more than maxBodyLine octets
}

type scanState uint8

const (
	lineStart scanState = iota // where content begins
	lineDot                    // after a dot at the start of a line
	lineDotCR                  // after that and a CR
	lineCR                     // after a CR that may end the line
	lineRest
)

// scan returns how many octets of p are content.
func (s *contentScan) scan(p []byte) (n int) {
	for n < len(p) && s.open {
		if s.state == lineRest && p[n] != '\r' { // most octets: up to the next that matters
			end := bytes.IndexByte(p[n:], '\r')
			if end < 0 {
				end = len(p) - n
			}
			s.skip(p[n : n+end])
			n += end
			continue
		}
		s.step(p[n])
		n++
	}
	return n
}

// skip takes octets of which none is a CR.
func (s *contentScan) skip(p []byte) {
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			s.bare = s.bare || s.cr
			s.cr = false
			s.count(len(p))
			return
		}
		s.bare = s.bare || end > 0 || !s.cr
		s.cr = false
		s.count(end)
		s.line, p = 0, p[end+1:]
	}
}

func (s *contentScan) step(b byte) {
	s.bare = s.bare || (b == '\n') != s.cr
	s.cr = b == '\r'
	if b == '\n' {
		s.line = 0
	} else {
		s.count(1)
	}
	switch {
	case s.state == lineStart && b == '.':
		s.state = lineDot
	case s.state == lineDot && b == '\r':
		s.state = lineDotCR
	case s.state == lineDotCR && b == '\n':
		s.open = false
	case s.state == lineCR && b == '\n':
		s.state = lineStart
	case (s.state == lineStart || s.state == lineRest) && b == '\r':
		s.state = lineCR
	default:
		s.state = lineRest
	}
}

func (s *contentScan) count(n int) {
	s.line += n
	s.long = s.long || s.line > maxBodyLine
}
