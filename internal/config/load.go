package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxSize bounds a configuration file, in octets.
const maxSize = 1 << 20

// A Problem is one thing wrong with a file, at a line and column counted from
// 1; 0 when the file as a whole is meant.
type Problem struct {
	Line, Column int
	Key          string // "listener[1].address"
	Text         string
}

// Problems is every problem of a file, in its order. It is the error of Load
// and Parse.
type Problems struct {
	File string
	List []Problem
}

func (p *Problems) Error() string {
	var b strings.Builder
	for i, q := range p.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.File)
		if q.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", q.Line, q.Column)
		}
		b.WriteString(": ")
		if q.Key != "" {
			b.WriteString(q.Key + ": ")
		}
		b.WriteString(q.Text)
	}
	return b.String()
}

// Load reads and checks a file. The error is *Problems when the file could be
// read.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return Config{}, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	return Parse(path, data)
}

// Parse reads and checks the content of a file; name is for messages.
func Parse(name string, data []byte) (Config, error) {
	if len(data) > maxSize {
		return Config{}, &Problems{name, []Problem{{Text: "the file is larger than 1 MiB"}}}
	}
	c := Default()
	doc, list := outline(data)
	if len(list) == 0 {
		list = decode(&c, data, doc)
	}
	v := validator{c: &c, doc: doc}
	if len(list) == 0 || onlyUnknown(list) {
		v.all()
		list = append(list, v.list...)
	}
	if len(list) > 0 {
		slices.SortStableFunc(list, func(a, b Problem) int { return a.Line - b.Line })
		return Config{}, &Problems{name, list}
	}
	return c, nil
}

// decode fills c, and reports every value of a wrong type and every unknown
// key: the decoder stops at the first wrong value, so that line is blanked and
// the rest decoded again.
func decode(c *Config, data []byte, doc outlined) (list []Problem) {
	data = bytes.Clone(data)
	list = doc.unquoted(data)
	for range doc.lines {
		try := Default()
		dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
		err := dec.Decode(&try)
		var wrong *toml.DecodeError
		var unknown *toml.StrictMissingError
		switch {
		case err == nil:
			*c = try
			return list
		case errors.As(err, &unknown):
			*c = try
			for i := range unknown.Errors {
				e := &unknown.Errors[i]
				line, col := e.Position()
				key := strings.Join(e.Key(), ".")
				list = append(list, Problem{line, col, key, "unknown key" + didYouMean(e.Key())})
			}
			return list
		case errors.As(err, &wrong):
			line, col := wrong.Position()
			list = append(list, Problem{line, col, strings.Join(wrong.Key(), "."), plain(wrong.Error())})
			if !doc.blank(data, line) {
				return list
			}
		default:
			return append(list, Problem{Text: err.Error()})
		}
	}
	return list
}

func onlyUnknown(list []Problem) bool {
	return !slices.ContainsFunc(list, func(p Problem) bool { return !strings.HasPrefix(p.Text, "unknown key") })
}

// plain turns the decoder's words about Go types into the operator's.
func plain(text string) string {
	text = strings.TrimPrefix(text, "toml: ")
	if !strings.Contains(text, "cannot decode") && !strings.Contains(text, "incompatible") {
		return text
	}
	for goType, word := range map[string]string{
		"type string": "must be in quotes", "type bool": "must be true or false", "type int": "must be a whole number",
		"netip.Prefix": "must be a list of networks, like [\"192.0.2.0/24\"]", "netip.AddrPort": "must be a list of servers, like [\"127.0.0.1:53\"]",
		"[]string": "must be a list of strings",
	} {
		if strings.Contains(text, goType) {
			return word
		}
	}
	return text
}
