package tlsrpt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-msgauth/dkim"
)

// ErrKey is wrapped by errors that say that a published DKIM key does not serve
// our reports: whoever gets them must ignore them (RFC 8460, Section 3).
var ErrKey = errors.New("published DKIM key")

// Check looks the key's public half up, and proves that a report signed with
// the key verifies with it (RFC 6376, Section 3.6; ledger DKIM-3.6-01,
// DKIM-3.6-02). An error that wraps ErrKey says what is wrong with what is
// published, another that it could not be had. Warnings are about what works
// with some receivers only.
func (k SigningKey) Check(ctx context.Context, r Resolver) (warnings []string, err error) {
	a, err := r.TXT(ctx, k.Name())
	if err != nil {
		return nil, fmt.Errorf("looking up DKIM key: %w", err)
	}
	return k.check(a.Records)
}

func (k SigningKey) check(txt []string) (warnings []string, err error) {
	bad := func(format string, a ...any) ([]string, error) {
		return warnings, fmt.Errorf("%w %s: %w", ErrKey, k.Name(), fmt.Errorf(format, a...))
	}
	if len(txt) != 1 {
		return bad("%d TXT records, want one", len(txt))
	}
	tags, first, err := parseTags(txt[0])
	if err != nil {
		return bad("%w", err)
	}
	if v, ok := tags["v"]; ok && (v != "DKIM1" || first != "v") {
		return bad("v=%s is not DKIM1 in the first place", v)
	}
	if tags["p"] == "" {
		return bad("the key is revoked: p= is empty or missing")
	}
	if h, ok := tags["h"]; ok && !slices.Contains(list(h), "sha256") {
		return bad("h=%s does not allow sha256", h)
	}
	if !k.rsa() && tags["k"] != "ed25519" {
		return bad("k=ed25519 is missing")
	}
	services := []string{"*"}
	if s, ok := tags["s"]; ok {
		services = list(s)
	}
	all, mail, reports := slices.Contains(services, "*"), slices.Contains(services, "email"), slices.Contains(services, "tlsrpt")
	switch {
	case !all && !mail && !reports:
		return bad("s=%s allows neither tlsrpt nor email", tags["s"])
	case !reports:
		warnings = append(warnings, fmt.Sprintf("%s: receivers may ignore TLS reports, because s= does not name tlsrpt (RFC 8460, Section 3); s=tlsrpt:email serves all", k.Name()))
	case !all && !mail:
		warnings = append(warnings, fmt.Sprintf("%s: with s=tlsrpt alone, verifiers of ordinary mail ignore the signature; s=tlsrpt:email serves all", k.Name()))
	}
	if slices.Contains(list(tags["t"]), "y") {
		warnings = append(warnings, k.Name()+": t=y says that the signatures are a test, and need not be believed")
	}
	if bits := k.bits(); bits > 0 && bits < goodRSA {
		warnings = append(warnings, fmt.Sprintf("%s: an RSA key of %d bits; %d are recommended (RFC 8301, Section 3.2)", k.Name(), bits, goodRSA))
	}
	if err := k.prove(txt[0]); err != nil {
		return bad("it does not verify what our private key signs: %w", err)
	}
	return warnings, nil
}

// parseTags reads a tag list (RFC 6376, Section 3.2; ledger DKIM-3.2-01), and
// which tag came first.
func parseTags(s string) (tags map[string]string, first string, err error) {
	tags = map[string]string{}
	s = strings.TrimRight(s, wsp+"\r\n")
	for part := range strings.SplitSeq(strings.TrimSuffix(s, ";"), ";") {
		name, value, ok := strings.Cut(part, "=")
		name = strings.Trim(name, wsp+"\r\n")
		if _, twice := tags[name]; !ok || name == "" || twice {
			return nil, "", fmt.Errorf("%.50q is no tag of its own", part)
		}
		if first == "" {
			first = name
		}
		tags[name] = strings.Trim(value, wsp+"\r\n")
	}
	return tags, first, nil
}

// list splits at colons.
func list(s string) (out []string) {
	for part := range strings.SplitSeq(s, ":") {
		out = append(out, strings.Trim(part, wsp+"\r\n"))
	}
	return out
}

// prove signs a small message and verifies it with what is published. The
// service is left out of it: the library knows no tlsrpt.
func (k SigningKey) prove(txt string) error {
	domain := k.Domain.String()
	message := "From: <reports@" + domain + ">\r\nTo: <reports@" + domain + ">\r\nSubject: self-check\r\n\r\nself-check\r\n"
	whole, err := Sign([]byte(message), []SigningKey{k})
	if err != nil {
		return err
	}
	lookup := func(string) ([]string, error) { return []string{withoutService(txt)}, nil }
	found, err := dkim.VerifyWithOptions(bytes.NewReader(whole), &dkim.VerifyOptions{LookupTXT: lookup, MaxVerifications: 1})
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return errors.New("no signature was found")
	}
	return found[0].Err
}

func withoutService(txt string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(txt, ";"), func(part string) bool {
		name, _, _ := strings.Cut(part, "=")
		return strings.Trim(name, wsp+"\r\n") == "s"
	}), ";")
}
