package delivery

import (
	"strconv"
	"strings"
)

// Extensions are what the latest EHLO on a connection offered; only these are
// used (ledger SMTP-4.1.1.1-03). The zero value is a server that knows HELO.
type extensions struct {
	startTLS   bool
	pipelining bool // RFC 2920
	eightBit   bool // 8BITMIME, RFC 6152
	utf8       bool // SMTPUTF8, RFC 6531
	requireTLS bool // RFC 8689
	dsn        bool // RFC 3461
	size       bool // RFC 1870
	sizeLimit  int64
	rcptMax    int // LIMITS, RFC 9422: recipients per transaction, 0 for no limit
	mailMax    int // transactions per connection
}

// parseEHLO reads the text of a positive reply to EHLO. Its first line is the
// server's name and greeting, never a keyword; keywords are compared without
// regard to case (RFC 5321, Section 4.1.1.1; ledger SMTP-4.1.1.1-02).
func parseEHLO(text string) extensions {
	var x extensions
	_, text, _ = strings.Cut(text, "\n")
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		keyword, params, _ := strings.Cut(strings.TrimSpace(line), " ")
		x.add(strings.ToUpper(keyword), strings.TrimSpace(params))
	}
	return x
}

func (x *extensions) add(keyword, params string) {
	switch keyword {
	case "STARTTLS":
		x.startTLS = true
	case "PIPELINING":
		x.pipelining = true
	case "8BITMIME":
		x.eightBit = true
	case "SMTPUTF8": // parameters are ignored (ledger UTF8-3.1-01)
		x.utf8 = true
	case "REQUIRETLS":
		x.requireTLS = true
	case "DSN":
		x.dsn = true
	case "SIZE":
		x.size = true
		x.sizeLimit = parseSize(params)
	case "LIMITS":
		x.limits(params)
	}
}

// parseSize reads the parameter of SIZE: absent, 0 or no number mean that no
// fixed limit is declared (RFC 1870, Section 3; ledger SIZE-3-01).
func parseSize(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// limits reads RFC 9422's "RCPTMAX=20 MAILMAX=5". A line with any malformed
// word is ignored as a whole (ledger LIM-9422-01).
func (x *extensions) limits(params string) {
	rcpt, mail := x.rcptMax, x.mailMax
	for _, word := range strings.Fields(params) {
		name, value, ok := strings.Cut(word, "=")
		n, err := strconv.Atoi(value)
		if !ok || err != nil || n < 1 || n > 999999 {
			return
		}
		switch strings.ToUpper(name) {
		case "RCPTMAX":
			rcpt = n
		case "MAILMAX":
			mail = n
		}
	}
	x.rcptMax, x.mailMax = rcpt, mail
}
