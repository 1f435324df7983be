package relay

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// mailParams are the parameters of MAIL.
type mailParams struct {
	size       int64  // SIZE, 0 if absent
	body       Body   // BODY
	utf8       bool   // SMTPUTF8 (RFC 6531)
	requireTLS bool   // REQUIRETLS (RFC 8689)
	ret        string // RET, in capitals (RFC 3461, Section 4.3)
	envelope   string // ENVID, xtext as given (RFC 3461, Section 4.4)
}

// rcptParams are the parameters of RCPT.
type rcptParams struct {
	notify   string // NOTIFY, in capitals (RFC 3461, Section 4.1)
	original string // ORCPT as given (RFC 3461, Section 4.2)
}

// An unknownParam is the keyword of a parameter that is not offered (RFC 5321,
// Section 4.1.1.11).
type unknownParam string

func (u unknownParam) Error() string { return string(u) + " is not offered" }

// What DSN parameters may have at most, in octets of their values (RFC 3461,
// Section 5.4).
const (
	maxEnvelope = 100
	maxOriginal = 500
)

func parseMailParams(args string) (p mailParams, err error) {
	err = eachParam(args, func(key, value string) (err error) {
		switch key {
		case "SIZE":
			p.size, err = parseSize(value)
		case "BODY":
			p.body, err = parseBody(value)
		case "SMTPUTF8":
			p.utf8 = true
			err = wantNoValue(value)
		case "REQUIRETLS":
			p.requireTLS = true
			err = wantNoValue(value)
		case "RET":
			if p.ret = strings.ToUpper(value); p.ret != "FULL" && p.ret != "HDRS" {
				err = errors.New("FULL and HDRS are its values")
			}
		case "ENVID":
			p.envelope = value
			err = checkXtext(value, maxEnvelope)
		default:
			err = unknownParam(key)
		}
		return err
	})
	return p, err
}

// parseRcptParams reads the parameters of RCPT. Wide says that MAIL had
// SMTPUTF8.
func parseRcptParams(args string, wide bool) (p rcptParams, err error) {
	err = eachParam(args, func(key, value string) (err error) {
		switch key {
		case "NOTIFY":
			p.notify, err = parseNotify(value)
		case "ORCPT":
			p.original = value
			err = checkOriginal(value, wide)
		default:
			err = unknownParam(key)
		}
		return err
	})
	return p, err
}

// eachParam reads the parameters behind a path (RFC 5321, Section 4.1.2). Take
// is told each, its keyword in capitals, its value empty only if there is none.
func eachParam(args string, take func(key, value string) error) error {
	if args != "" && !isBlank(rune(args[0])) {
		return errors.New("there is no space before it")
	}
	var seen []string
	for _, param := range strings.FieldsFunc(args, isBlank) {
		key, value, has := strings.Cut(param, "=")
		key = strings.ToUpper(key)
		switch {
		case !isParamKeyword(key):
			return errors.New("its keyword is none")
		case has && !isParamValue(value):
			return fmt.Errorf("%s: the value is empty, or has octets that no value has", key)
		case slices.Contains(seen, key): // RFC 3461, Section 4.5; RFC 6152, Section 2
			return fmt.Errorf("%s is there twice", key)
		}
		seen = append(seen, key)
		if err := take(key, value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

func isParamKeyword(s string) bool {
	for i, c := range []byte(s) {
		if !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' && i > 0) {
			return false
		}
	}
	return s != ""
}

// isParamValue knows an esmtp-value (RFC 5321, Section 4.1.2; RFC 6531, Section
// 3.3): UTF-8 without blanks, controls and "=".
func isParamValue(s string) bool {
	return s != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r == '=' || r == ' ' || unicode.IsControl(r) })
}

func wantNoValue(value string) error {
	if value != "" {
		return errors.New("it has no value")
	}
	return nil
}

// parseSize reads a size-value: up to 20 digits (RFC 1870, Section 4). What no
// number here can hold is larger than every limit.
func parseSize(s string) (int64, error) {
	if s == "" || len(s) > 20 || strings.Trim(s, "0123456789") != "" {
		return 0, errors.New("it is no number")
	}
	n, _ := strconv.ParseInt(s, 10, 64) // of what is too large it makes the largest
	return n, nil
}

func parseBody(s string) (Body, error) {
	switch b := Body(strings.ToUpper(s)); b {
	case Body7Bit, Body8BitMIME:
		return b, nil
	case "BINARYMIME":
		return "", unknownParam(b)
	}
	return "", errors.New("7BIT and 8BITMIME are its values")
}

// parseNotify reads a notify-esmtp-value. What is there twice is kept once:
// others may not like it.
func parseNotify(s string) (string, error) {
	var words []string
	for word := range strings.SplitSeq(strings.ToUpper(s), ",") {
		switch word {
		case "NEVER", "SUCCESS", "FAILURE", "DELAY":
		default:
			return "", errors.New("NEVER, or SUCCESS, FAILURE and DELAY, are its values")
		}
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	if len(words) > 1 && slices.Contains(words, "NEVER") {
		return "", errors.New("NEVER stands alone")
	}
	return strings.Join(words, ","), nil
}

// checkOriginal says why s is no original-recipient-address: an address type, an
// atom, and xtext; for the type utf-8 one of the three forms of RFC 6533,
// Section 3, of which two are for mail with SMTPUTF8 only.
func checkOriginal(s string, wide bool) error {
	kind, address, ok := strings.Cut(s, ";")
	switch {
	case !ok || !isAtom(kind) || address == "":
		return errors.New("it is no address type and address")
	case len(s) > maxOriginal:
		return fmt.Errorf("it has more than %d octets", maxOriginal)
	case !strings.EqualFold(kind, "utf-8"):
		return checkXtext(address, maxOriginal)
	case !wide && !onlyASCII(address):
		return errors.New("it is not ASCII, and MAIL had no SMTPUTF8")
	}
	return checkUnitext(address)
}

// isAtom knows an atom of ASCII (RFC 5322, Section 3.2.3).
func isAtom(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>[]:;@\,."`, r)
	})
}

// checkXtext says why s is not xtext of printable ASCII (RFC 3461, Section 4).
func checkXtext(s string, most int) error {
	if s == "" || len(s) > most {
		return fmt.Errorf("it has not 1 to %d octets", most)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			if i+2 >= len(s) || !isUpperHex(s[i+1]) || !isUpperHex(s[i+2]) {
				return errors.New("+ is not followed by two hexadecimal digits in capitals")
			}
			n, _ := strconv.ParseUint(s[i+1:i+3], 16, 8) // they are digits
			c, i = byte(n), i+2
		} else if c == ' ' || c == '=' {
			return errors.New("it is not xtext")
		}
		if c < ' ' || c > '~' {
			return errors.New("it stands for what is not printable ASCII")
		}
	}
	return nil
}

func isUpperHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' }

// checkUnitext says why s is neither utf-8-addr-xtext nor utf-8-addr-unitext
// (RFC 6533, Section 3): printable characters but "\", "+" and "=", for which,
// and for all beyond ASCII, \x{HEX} stands.
func checkUnitext(s string) error {
	for s != "" {
		if hex, ok := strings.CutPrefix(s, `\x{`); ok {
			digits, rest, ok := strings.Cut(hex, "}")
			n, err := strconv.ParseUint(digits, 16, 32)
			if !ok || err != nil || len(digits) < 2 || len(digits) > 6 || !needsHex(rune(n)) {
				return errors.New(`there is a \x{} that stands for no character that needs it`)
			}
			s = rest
			continue
		}
		r, size := utf8.DecodeRuneInString(s)
		if r < utf8.RuneSelf && needsHex(r) {
			return errors.New(`there is a "\", a "+" or a "=" that is not written as \x{}`)
		}
		s = s[size:]
	}
	return nil
}

// needsHex reports whether unitext may write r as \x{HEX}.
func needsHex(r rune) bool {
	return r > 0 && r <= ' ' || strings.ContainsRune("\\+=\x7f", r) || r >= utf8.RuneSelf && utf8.ValidRune(r)
}
