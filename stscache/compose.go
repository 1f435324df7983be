package stscache

import (
	"fmt"
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// Compose writes a policy file that ParsePolicy reads as p (RFC 8461, Section
// 3.2), version first, with CRLF as the RFC has it.
func Compose(p Policy) []byte {
	var b strings.Builder
	line := func(key, value string) { b.WriteString(key + ": " + value + "\r\n") }
	line("version", "STSv1")
	line("mode", string(p.Mode))
	for _, m := range p.MX {
		line("mx", string(m))
	}
	line("max_age", fmt.Sprint(int64(p.MaxAge/time.Second)))
	return []byte(b.String())
}

// ComposeRecord is the TXT record that ParseRecord reads as id (Section 3.1).
func ComposeRecord(id string) string { return "v=STSv1; id=" + id + ";" }

// NewID is an id for a policy that changes now: unlike every one before it.
func NewID(now time.Time) string { return now.UTC().Format("20060102T150405") }

// PolicyURL is where the policy of a domain is served (Section 3.3).
func PolicyURL(domain addr.Domain) string { return "https://mta-sts." + domain.String() + policyPath }
