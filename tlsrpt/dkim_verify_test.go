package tlsrpt

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// verifyDKIM verifies every signature of a message by RFC 6376, Section 6.1,
// for relaxed/relaxed only. It shares nothing with what signs, and is itself
// held to the vector of RFC 8463. It returns the signatures' tags, from the
// top down.
func verifyDKIM(message []byte, keys map[string]string) ([]map[string]string, error) {
	head, body, ok := bytes.Cut(message, []byte("\r\n\r\n"))
	if !ok {
		return nil, errors.New("no body")
	}
	var fields []string // each without its last CRLF
	for line := range strings.SplitSeq(string(head), "\r\n") {
		if line != "" && (line[0] == ' ' || line[0] == '\t') {
			fields[len(fields)-1] += "\r\n" + line
			continue
		}
		fields = append(fields, line)
	}
	var all []map[string]string
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		if !strings.EqualFold(name, "DKIM-Signature") {
			continue
		}
		tags := map[string]string{}
		for part := range strings.SplitSeq(value, ";") {
			k, v, _ := strings.Cut(part, "=")
			if k = strings.TrimSpace(k); k != "" {
				tags[k] = regexp.MustCompile(`\s+`).ReplaceAllString(strings.TrimSpace(v), "")
			}
		}
		all = append(all, tags)
		if err := verifyOne(fields, f, body, tags, keys); err != nil {
			return all, fmt.Errorf("%s: %w", tags["s"], err)
		}
	}
	return all, nil
}

func verifyOne(fields []string, self string, body []byte, tags, keys map[string]string) error {
	for _, need := range []string{"v", "a", "b", "bh", "d", "h", "s"} {
		if tags[need] == "" {
			return fmt.Errorf("no %s=", need)
		}
	}
	if tags["v"] != "1" || tags["c"] != "relaxed/relaxed" {
		return fmt.Errorf("v=%s c=%s", tags["v"], tags["c"])
	}
	hash := sha256.Sum256(relaxBody(body))
	if got := base64.StdEncoding.EncodeToString(hash[:]); got != tags["bh"] {
		return fmt.Errorf("body hash %s, bh=%s", got, tags["bh"])
	}
	var data strings.Builder
	used := map[int]bool{}
	for name := range strings.SplitSeq(tags["h"], ":") {
		for i := len(fields) - 1; i >= 0; i-- { // from the bottom up (Section 5.4.2)
			have, _, _ := strings.Cut(fields[i], ":")
			if !used[i] && strings.EqualFold(strings.TrimSpace(have), name) {
				used[i] = true
				data.WriteString(relaxField(fields[i]) + "\r\n")
				break
			}
		}
	}
	data.WriteString(relaxField(regexp.MustCompile(`([;:]\s*b\s*=)[^;]*`).ReplaceAllString(self, "$1")))
	sum := sha256.Sum256([]byte(data.String()))
	sig, err := base64.StdEncoding.DecodeString(tags["b"])
	if err != nil {
		return err
	}
	public, err := base64.StdEncoding.DecodeString(keys[tags["s"]+"._domainkey."+tags["d"]])
	if err != nil {
		return err
	}
	switch tags["a"] {
	case "rsa-sha256":
		k, err := x509.ParsePKIXPublicKey(public)
		if err != nil {
			return err
		}
		return rsa.VerifyPKCS1v15(k.(*rsa.PublicKey), crypto.SHA256, sum[:], sig)
	case "ed25519-sha256":
		if len(public) != ed25519.PublicKeySize || !ed25519.Verify(public, sum[:], sig) {
			return errors.New("signature does not verify")
		}
		return nil
	}
	return fmt.Errorf("a=%s", tags["a"])
}

var blanks = regexp.MustCompile(`[ \t]+`)

func relaxField(f string) string {
	name, value, _ := strings.Cut(f, ":")
	value = blanks.ReplaceAllString(strings.ReplaceAll(value, "\r\n", ""), " ")
	return strings.ToLower(strings.TrimSpace(name)) + ":" + strings.TrimSpace(value)
}

func relaxBody(body []byte) []byte {
	lines := strings.Split(string(body), "\r\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(blanks.ReplaceAllString(l, " "), " ")
	}
	s := strings.TrimRight(strings.Join(lines, "\r\n"), "\r\n")
	if s == "" {
		return nil
	}
	return []byte(s + "\r\n")
}
