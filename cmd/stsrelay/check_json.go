package main

import (
	"cmp"
	"strings"
	"time"

	"stsrelay/internal/check"
	"stsrelay/tlsrpt"
)

// A checkJSON is `check --json`.
type checkJSON struct {
	Schema       string         `json:"schema"`
	Domain       string         `json:"domain"`
	CheckedAt    time.Time      `json:"checked_at"`
	Verdict      string         `json:"verdict"`
	WouldDeliver bool           `json:"would_deliver"`
	STS          checkSTS       `json:"sts"`
	TLSRPT       checkTLSRPT    `json:"tlsrpt"`
	MX           []checkMX      `json:"mx"`
	Findings     []checkFinding `json:"findings"`
	Unknown      []string       `json:"indeterminate"`
}

type checkSTS struct {
	Record struct {
		Name string   `json:"name"`
		TXT  []string `json:"txt"`
		ID   string   `json:"id,omitempty"`
	} `json:"record"`
	Policy *checkPolicy `json:"policy"`
	Error  string       `json:"error,omitempty"`
}

type checkPolicy struct {
	Mode   string   `json:"mode"`
	MaxAge int      `json:"max_age"`
	MX     []string `json:"mx"`
}

type checkTLSRPT struct {
	RUA []string `json:"rua"`
}

type checkMX struct {
	Preference uint16         `json:"preference"`
	Host       string         `json:"host"`
	Pattern    string         `json:"policy_match,omitempty"`
	TLSA       string         `json:"tlsa"`
	Decision   string         `json:"decision"`
	Later      string         `json:"under_enforce,omitempty"` // in testing mode: why it would be refused
	Addresses  []checkAddress `json:"addresses"`
}

type checkAddress struct {
	IP         string     `json:"ip"`
	StartTLS   bool       `json:"starttls"`
	TLSVersion string     `json:"tls_version,omitempty"`
	NotAfter   *time.Time `json:"certificate_not_after,omitempty"`
	Names      []string   `json:"certificate_names,omitempty"`
	Decision   string     `json:"decision"`
	Error      string     `json:"error,omitempty"`
}

type checkFinding struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Subject  string `json:"subject"`
	RFC      string `json:"rfc,omitempty"`
	Result   string `json:"result,omitempty"`
	Message  string `json:"message"`
	Fix      string `json:"fix,omitempty"`
}

func checkDocument(r check.Report) checkJSON {
	d := checkJSON{Schema: "stsrelay.check/v1", Domain: r.Domain.String(), CheckedAt: r.At.UTC(), Verdict: string(r.Verdict),
		WouldDeliver: r.Verdict == check.Deliver || r.Verdict == check.Partial, MX: []checkMX{}, Findings: []checkFinding{}, Unknown: append([]string{}, r.Unknown...)}
	d.STS.Record.Name, d.STS.Record.TXT, d.STS.Record.ID = r.Record.Name, append([]string{}, r.Record.Records...), r.Status.ID
	if p := r.Status.Policy; p != nil {
		d.STS.Policy = &checkPolicy{Mode: string(p.Mode), MaxAge: int(p.MaxAge / time.Second), MX: []string{}}
		for _, m := range p.MX {
			d.STS.Policy.MX = append(d.STS.Policy.MX, string(m))
		}
	}
	if r.Status.Err != nil {
		d.STS.Error = tlsrpt.Clean(r.Status.Err.Error())
	}
	d.TLSRPT.RUA = append([]string{}, r.RUAs...)
	for _, h := range r.Hosts {
		m := checkMX{Preference: h.Preference, Host: h.Facts.MX.String(), Pattern: string(h.Decision.Pattern), TLSA: h.Facts.TLSA.String(), Decision: string(h.Verdict), Addresses: []checkAddress{}}
		if h.Later != nil {
			m.Later = string(h.Later.Reason)
		}
		for _, a := range h.Addresses {
			m.Addresses = append(m.Addresses, addressDocument(h, a))
		}
		d.MX = append(d.MX, m)
	}
	for _, f := range r.Findings {
		d.Findings = append(d.Findings, checkFinding{f.ID, string(f.Severity), f.Subject, f.RFC, string(f.Result), f.Text, f.Fix})
	}
	return d
}

func addressDocument(h check.Host, a check.Address) checkAddress {
	x := checkAddress{IP: a.Addr.Addr().String(), StartTLS: a.Evidence.Offered, Decision: string(addressVerdict(h, a))}
	if w := tlsWord(a); w != "none" {
		x.TLSVersion = strings.TrimPrefix(w, "TLS ")
	}
	if a.Leaf != nil {
		end := a.Leaf.NotAfter.UTC()
		x.NotAfter, x.Names = &end, a.Leaf.DNSNames
	}
	if e := cmp.Or(a.Err, a.Verdict.Err); e != nil {
		x.Error = e.Text
	}
	return x
}
