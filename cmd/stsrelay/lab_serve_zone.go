package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/config"
	"stsrelay/internal/lab"
)

// A zoneFile describes a receiving domain of one's own.
type zoneFile struct {
	Domain string      `toml:"domain"`
	MX     []zoneMX    `toml:"mx"`
	Policy *zonePolicy `toml:"policy"`
}

type zoneMX struct {
	Name        string `toml:"name"`
	Preference  uint16 `toml:"preference"`
	Certificate string `toml:"certificate"`
	STARTTLS    *bool  `toml:"starttls"`
	TLSA        string `toml:"tlsa"`
}

type zonePolicy struct {
	Mode   string   `toml:"mode"`
	MX     []string `toml:"mx"`
	MaxAge int64    `toml:"max_age"` // seconds
}

var certKinds = []string{
	"good", string(lab.WithIntermediate), string(lab.MissingIntermediate), string(lab.Wildcard), string(lab.Expired), string(lab.NotYetValid),
	string(lab.SelfSigned), string(lab.WrongName), string(lab.UntrustedCA), string(lab.OwnCA), string(lab.CNOnly), string(lab.ClientOnly),
}

// A zoneWord is a value of which only some are known; "" is the usual one.
type zoneWord struct {
	key, value string
	known      []string
}

// words are all such values of a file.
func (z *zoneFile) words() (list []zoneWord) {
	for _, m := range z.MX {
		list = append(list, zoneWord{"certificate", m.Certificate, certKinds}, zoneWord{"tlsa", m.TLSA, []string{"none", "match", "mismatch"}})
	}
	if z.Policy != nil {
		list = append(list, zoneWord{"mode", z.Policy.Mode, []string{"enforce", "testing", "none"}})
	}
	return list
}

// readZone makes a scenario of a file. What must become of mail to it is left
// open.
func readZone(path string, known []lab.Scenario) (s lab.Scenario, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("--zone: %w", err)
	}
	var z zoneFile
	if line, err := config.DecodeStrict(data, &z); err != nil {
		return s, exitError{exitConfig, fmt.Errorf("%s:%d: %w", path, line, err)}
	}
	if line, err := z.check(data, known); err != nil {
		return s, exitError{exitConfig, fmt.Errorf("%s:%d: %w", path, line, err)}
	}
	return lab.Scenario{Domain: z.Domain, Title: "the domain of " + path, Setup: z.setUp, Why: "what this relay does with mail to it (--zone)"}, nil
}

// check looks at what the decoder cannot know. Names are looked for in the text
// to find their line.
func (z *zoneFile) check(data []byte, known []lab.Scenario) (line int, err error) {
	taken := func(s lab.Scenario) bool { return s.Domain == z.Domain }
	switch name, err := addr.ParseDomain(z.Domain); {
	case z.Domain == "":
		return 1, errors.New("domain is missing")
	case err != nil || name.String() != z.Domain:
		return lineOf(data, z.Domain), fmt.Errorf("domain: %q is no domain name in lower case", z.Domain)
	case slices.ContainsFunc(known, taken):
		return lineOf(data, z.Domain), fmt.Errorf("domain: the lab has %s already", z.Domain)
	case len(z.MX) == 0:
		return 1, errors.New("there is no [[mx]]")
	}
	var names []string
	for _, m := range z.MX {
		switch name, err := addr.ParseDomain(m.Name); {
		case m.Name == "":
			return lineOf(data, ""), errors.New("mx: name is missing")
		case err != nil || name.String() != m.Name || m.Name != z.Domain && !strings.HasSuffix(m.Name, "."+z.Domain):
			return lineOf(data, m.Name), fmt.Errorf("mx: %q is no name in %s, in lower case", m.Name, z.Domain)
		case slices.Contains(names, m.Name):
			return lineOf(data, m.Name), fmt.Errorf("mx: %s is there twice", m.Name)
		}
		names = append(names, m.Name)
	}
	for _, w := range z.words() {
		if w.value != "" && !slices.Contains(w.known, w.value) {
			return lineOf(data, w.value), fmt.Errorf("%s: %q is none of: %s", w.key, w.value, strings.Join(w.known, ", "))
		}
	}
	if z.Policy != nil && (z.Policy.MaxAge < 0 || z.Policy.MaxAge > 31_557_600) { // RFC 8461, Section 3.2
		return lineOf(data, fmt.Sprint(z.Policy.MaxAge)), fmt.Errorf("policy: max_age is %d, and must be 1 to 31557600 seconds", z.Policy.MaxAge)
	}
	return 0, nil
}

// lineOf finds the first line with a value; the last line is that of a text
// which is not there.
func lineOf(data []byte, value string) int {
	for i, line := range strings.Split(string(data), "\n") {
		if value != "" && strings.Contains(line, value) {
			return i + 1
		}
	}
	return 1 + strings.Count(string(data), "\n")
}

func (z *zoneFile) setUp(w *lab.World) {
	for _, m := range z.MX {
		kind := lab.CertKind(m.Certificate)
		if kind == "good" {
			kind = lab.Good
		}
		h := w.AddMX(lab.MX{
			Name: m.Name, Domains: []string{z.Domain}, Preference: m.Preference,
			Cert: kind, NoStartTLS: m.STARTTLS != nil && !*m.STARTTLS,
		})
		switch m.TLSA {
		case "match":
			w.DNS.Sign(z.Domain)
			w.DNS.Add(h.TLSA(3, 1, 1))
		case "mismatch":
			w.DNS.Sign(z.Domain)
			w.DNS.Add(h.TLSAFor(otherLeaf(w, m.Name), 3, 1, 1))
		}
	}
	if p := z.Policy; p != nil {
		w.AddPolicy(lab.Policy{Domain: z.Domain, ID: "1", Mode: p.Mode, MX: p.MX, MaxAge: time.Duration(p.MaxAge) * time.Second})
	}
}

// otherLeaf is a certificate for a name that no host shows.
func otherLeaf(w *lab.World, name string) *x509.Certificate {
	c, err := x509.ParseCertificate(w.CA.Issue(lab.SelfSigned, lab.Cert{Names: []string{name}}).Certificate[0])
	if err != nil {
		panic("lab: " + err.Error())
	}
	return c
}
