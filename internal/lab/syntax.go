package lab

import "strings"

// path is the address of a MAIL or RCPT command, nil if there is none.
func path(line string) *string {
	_, rest, ok := strings.Cut(line, ":")
	if !ok {
		return nil
	}
	rest = strings.TrimLeft(rest, " ")
	if !strings.HasPrefix(rest, "<") {
		return nil
	}
	quoted := false
	for i := 1; i < len(rest); i++ {
		switch b := rest[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case b == '>' && !quoted:
			p := rest[1:i]
			return &p
		}
	}
	return nil
}

// params are the parameters of a MAIL or RCPT command, names in upper case.
func params(line string) map[string]string {
	p := path(line)
	if p == nil {
		return nil
	}
	_, tail, _ := strings.Cut(line, "<"+*p+">")
	list := map[string]string{}
	for _, f := range strings.Fields(tail) {
		name, value, _ := strings.Cut(f, "=")
		list[strings.ToUpper(name)] = value
	}
	return list
}
