package tlsrpt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// What a domain's TXT records can fail to be. The domain gets no reports then
// (RFC 8460, Section 3; ledger RPT-3-08, RPT-3-10).
var (
	ErrNoRecord     = errors.New("no TLSRPT record")
	ErrManyRecords  = errors.New("more than one TLSRPT record")
	ErrRecordSyntax = errors.New("TLSRPT record syntax")
)

// A Record says where a domain wants its reports.
type Record struct {
	RUAs    []RUA
	Skipped []Skipped // destinations that cannot be used; the others can (ledger RPT-3-06)
}

// A Skipped is a destination that gets no report, and why.
type Skipped struct {
	URI string // cleaned
	Why string
}

// MaxRUAs bounds the destinations of one record (ledger RPT-7-01).
const MaxRUAs = 10

// maxFields bounds the fields of one record, and the destinations looked at in
// each. Nobody has a use for more.
const maxFields = 100

const version = "v=TLSRPTv1"

// ParseRecord reads the TXT records at _smtp._tls of a domain (RFC 8460, Section
// 3). Errors wrap ErrNoRecord, ErrManyRecords or ErrRecordSyntax.
func ParseRecord(txt []string) (Record, error) {
	sole, err := choose(txt)
	if err != nil {
		return Record{}, err
	}
	rest, ok := strings.CutPrefix(sole, version)
	if !ok {
		return Record{}, fmt.Errorf("%w: %.50q does not begin with %q", ErrNoRecord, sole, version)
	}
	fields := strings.SplitN(rest, ";", maxFields+1)
	if strings.Trim(fields[0], wsp) != "" {
		return Record{}, fmt.Errorf("%w: %.50q has another version than %q", ErrNoRecord, sole, version)
	}
	if len(fields) > maxFields {
		return Record{}, fmt.Errorf("%w: more than %d fields", ErrRecordSyntax, maxFields)
	}
	fields = fields[1:]
	if n := len(fields); n > 0 && strings.Trim(fields[n-1], wsp) == "" {
		fields = fields[:n-1] // the delimiter that may end a record
	} else if n > 0 && strings.TrimRight(fields[n-1], wsp) != fields[n-1] {
		return Record{}, fmt.Errorf("%w: white space at the end", ErrRecordSyntax)
	}
	return parseFields(fields)
}

// wsp is WSP of RFC 5234.
const wsp = " \t"

// choose drops what is no TLSRPT record when there are several (ledger
// RPT-3-08). A sole record is left to the grammar, which allows white space
// before the first ";" (ledger RPT-3-10).
func choose(txt []string) (string, error) {
	if len(txt) == 1 {
		return txt[0], nil
	}
	ours := slices.DeleteFunc(slices.Clone(txt), func(s string) bool { return !strings.HasPrefix(s, version+";") })
	switch len(ours) {
	case 0:
		return "", ErrNoRecord
	case 1:
		return ours[0], nil
	}
	return "", fmt.Errorf("%w: %d of them", ErrManyRecords, len(ours))
}

// parseFields reads what stands behind the version. Several rua fields are one
// list (ledger RPT-3-11); keys are case-sensitive, and unknown ones ignored
// (ledger RPT-3-03, RPT-3-07).
func parseFields(fields []string) (r Record, err error) {
	found := false
	for _, f := range fields {
		name, value, ok := strings.Cut(strings.Trim(f, wsp), "=")
		switch {
		case !ok:
			return Record{}, fmt.Errorf("%w: %.50q is no field", ErrRecordSyntax, f)
		case name == "rua":
			found = true
			if err := r.addRUAs(value); err != nil {
				return Record{}, err
			}
		case !isExtension(name, value):
			return Record{}, fmt.Errorf("%w: field %.50q", ErrRecordSyntax, name)
		}
	}
	if !found {
		return Record{}, fmt.Errorf("%w: no rua", ErrRecordSyntax)
	}
	return r, nil
}

// addRUAs splits at raw commas; those inside a URI are percent-encoded (ledger
// RPT-3-05).
func (r *Record) addRUAs(list string) error {
	uris := strings.SplitN(list, ",", maxFields+1)
	if len(uris) > maxFields {
		return fmt.Errorf("%w: more than %d URIs", ErrRecordSyntax, maxFields)
	}
	for _, s := range uris {
		s = strings.Trim(s, wsp)
		if s == "" {
			return fmt.Errorf("%w: rua has an empty URI", ErrRecordSyntax)
		}
		u, err := ParseRUA(s)
		switch {
		case err != nil:
			r.Skipped = append(r.Skipped, Skipped{Clean(s), err.Error()})
		case slices.ContainsFunc(r.RUAs, func(have RUA) bool { return have.String() == u.String() }):
		case len(r.RUAs) >= MaxRUAs:
			r.Skipped = append(r.Skipped, Skipped{Clean(s), fmt.Sprintf("only %d destinations are used", MaxRUAs)})
		default:
			r.RUAs = append(r.RUAs, u)
		}
	}
	return nil
}

// isExtension checks tlsrpt-extension: a name of up to 32 characters, and a
// value of visible ones without "=" and ";".
func isExtension(name, value string) bool {
	if name == "" || len(name) > 32 || !isAlnum(name[0]) || value == "" {
		return false
	}
	for i := range len(name) {
		if c := name[i]; !isAlnum(c) && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c > '~' || c == '=' || c == ';' {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
