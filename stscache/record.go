package stscache

import (
	"fmt"
	"strings"
)

// maxRecord bounds a TXT record, in octets; a longer one is invalid.
const maxRecord = 4096

// ParseRecord returns the id in the TXT records at _mta-sts (RFC 8461, Section
// 3.1). Each string is one whole record: its character-strings are joined. The
// error is ErrNoRecord, ErrManyRecords or wraps ErrRecordSyntax.
func ParseRecord(records []string) (id string, err error) {
	one := records
	if len(records) > 1 { // the filter is for telling several apart (ledger ERR-8461-6285, STS-3.1-07)
		one = nil
		for _, r := range records {
			if strings.HasPrefix(r, "v=STSv1;") {
				one = append(one, r)
			}
		}
	}
	switch {
	case len(one) == 0 || !isRecord(one[0]):
		return "", ErrNoRecord
	case len(one) > 1: // ledger STS-3.1-08
		return "", ErrManyRecords
	}
	id, problem := parseFields(one[0])
	if problem != "" {
		return "", fmt.Errorf("%w: %s", ErrRecordSyntax, problem)
	}
	return id, nil
}

// isRecord reports whether s claims to be an MTA-STS record: it begins with the
// version and nothing that would make it another one (ledger STS-3.1-02).
func isRecord(s string) bool {
	rest, ok := strings.CutPrefix(s, "v=STSv1")
	return ok && (rest == "" || strings.IndexByte(" \t;", rest[0]) >= 0)
}

// parseFields reads a record: fields behind the version, each behind a
// delimiter, and perhaps a last delimiter (ledger STS-3.1-03).
func parseFields(s string) (id, problem string) {
	if len(s) > maxRecord {
		return "", fmt.Sprintf("it has more than %d octets", maxRecord)
	}
	rest := strings.TrimPrefix(s, "v=STSv1")
	found := false
	for rest != "" {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" || rest[0] != ';' {
			return "", "a field does not end in a semicolon, or blanks follow the last one"
		}
		rest = strings.TrimLeft(rest[1:], " \t")
		if rest == "" {
			break
		}
		end := strings.IndexAny(rest, "; \t")
		if end < 0 {
			end = len(rest)
		}
		key, value, ok := strings.Cut(rest[:end], "=")
		if problem := checkField(key, value, ok); problem != "" {
			return "", problem
		}
		if key == "id" && !found { // the first counts, the others are fields like any (ledger STS-3.1-13)
			if !isID(value) { // ledger STS-3.1-04
				return "", "the id is not 1 to 32 letters and digits"
			}
			id, found = value, true
		}
		rest = rest[end:]
	}
	if !found {
		return "", "it has no id"
	}
	return id, ""
}

func checkField(key, value string, ok bool) (problem string) {
	switch {
	case !ok || !isExtensionName(key):
		return "a field is not of the form name=value"
	case !isFieldValue(value): // ledger STS-3.1-06
		return fmt.Sprintf("the value of %s is empty or has a character that is not allowed", key)
	}
	return ""
}

func isID(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 32
}

// isExtensionName is the name of a field, in records and in policy files.
func isExtensionName(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && (i == 0 || s[i] != '_' && s[i] != '-' && s[i] != '.') {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 32
}

func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x21 || c > 0x7e || c == ';' || c == '=' {
			return false
		}
	}
	return s != ""
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
