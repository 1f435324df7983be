package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// outlined knows where each key of a file stands.
type outlined struct {
	at    map[string]place // by path, "listener[1].address"
	spans []span           // key-values, in order
	lines int
}

type place struct{ line, column int }

// A span is the octets of one key-value.
type span struct {
	path     string
	kind     unstable.Kind // of the value
	line     int
	from, to int
}

// outline finds every key's place. A syntax error is the one problem returned:
// behind it nothing can be trusted.
func outline(data []byte) (outlined, []Problem) {
	doc := outlined{at: map[string]place{}}
	count := map[string]int{}
	var p unstable.Parser
	p.Reset(data)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		key, from := keyOf(e)
		start := p.Shape(from).Start
		at := place{start.Line, start.Column}
		switch e.Kind {
		case unstable.Table:
			table = latest(key, count)
			doc.at[table] = at
		case unstable.ArrayTable:
			n := count[key]
			count[key]++
			table = fmt.Sprintf("%s[%d]", key, n)
			doc.at[table] = at
		case unstable.KeyValue:
			path := key
			if table != "" {
				path = table + "." + key
			}
			doc.at[path] = at
			doc.close(int(from.Offset))
			doc.spans = append(doc.spans, span{path, e.Value().Kind, at.line, int(from.Offset), len(data)})
			continue
		}
		doc.close(int(from.Offset) - len("[["))
	}
	doc.lines = strings.Count(string(data), "\n") + 2
	if err := p.Error(); err != nil {
		return doc, []Problem{syntaxProblem(data, err)}
	}
	return doc, nil
}

// close ends the span before offset.
func (o *outlined) close(offset int) {
	if n := len(o.spans); n > 0 && o.spans[n-1].to > offset {
		o.spans[n-1].to = max(offset, o.spans[n-1].from)
	}
}

// blank overwrites the key-value that stands on a line, so that decoding can
// go on without it.
func (o *outlined) blank(data []byte, line int) bool {
	for i := len(o.spans) - 1; i >= 0; i-- {
		s := o.spans[i]
		if s.line > line {
			continue
		}
		return s.blank(data)
	}
	return false
}

func (s span) blank(data []byte) (changed bool) {
	for j := s.from; j < s.to; j++ {
		if data[j] != '\n' && data[j] != '\r' && data[j] != ' ' {
			data[j], changed = ' ', true
		}
	}
	return changed
}

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

// unquoted finds values that are written as text but stand without quotes: the
// decoder would hand them on as if they had them, or stop without a place.
func (o *outlined) unquoted(data []byte) (list []Problem) {
	for _, s := range o.spans {
		t := reflect.TypeFor[Config]()
		for part := range strings.SplitSeq(s.path, ".") {
			name, _, _ := strings.Cut(part, "[")
			if t, _ = fieldOf(t, name); t == nil {
				break
			}
		}
		if t == nil || !reflect.PointerTo(t).Implements(textType) {
			continue
		}
		switch s.kind {
		case unstable.Integer:
			if t == reflect.TypeFor[Size]() {
				continue
			}
			fallthrough
		case unstable.Float, unstable.Bool, unstable.LocalDate, unstable.LocalTime, unstable.LocalDateTime, unstable.DateTime:
			at := o.at[s.path]
			list = append(list, Problem{at.line, at.column, s.path, "must be in quotes" + unitHint(t)})
			s.blank(data)
		}
	}
	return list
}

func unitHint(t reflect.Type) string {
	if t == reflect.TypeFor[Duration]() {
		return ", with a unit, like \"30m\""
	}
	return ""
}

func keyOf(e *unstable.Node) (path string, first unstable.Range) {
	var parts []string
	for it := e.Key(); it.Next(); {
		if len(parts) == 0 {
			first = it.Node().Raw
		}
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, "."), first
}

// latest turns a [table] below an array table into its path.
func latest(key string, count map[string]int) string {
	head, rest, ok := strings.Cut(key, ".")
	if n := count[head]; ok && n > 0 {
		return fmt.Sprintf("%s[%d].%s", head, n-1, rest)
	}
	return key
}

func syntaxProblem(data []byte, err error) Problem {
	p := Problem{Text: strings.TrimPrefix(err.Error(), "toml: ")}
	if pe, ok := err.(*unstable.ParserError); ok && pe.Highlight != nil {
		if off := cap(data) - cap(pe.Highlight); off >= 0 && off <= len(data) {
			p.Line = strings.Count(string(data[:off]), "\n") + 1
			p.Column = off - strings.LastIndexByte(string(data[:off]), '\n')
		}
	}
	return p
}

// didYouMean names the nearest key that exists, if one is near.
func didYouMean(key []string) string {
	if len(key) == 0 {
		return ""
	}
	t := reflect.TypeFor[Config]()
	for _, k := range key[:len(key)-1] {
		f, ok := fieldOf(t, k)
		if !ok {
			break
		}
		t = f
	}
	if t.Kind() != reflect.Struct {
		return ""
	}
	best, dist := "", 3
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("toml")
		if d := distance(name, key[len(key)-1]); d < dist {
			best, dist = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

func fieldOf(t reflect.Type, key string) (reflect.Type, bool) {
	if t == nil || t.Kind() != reflect.Struct {
		return nil, false
	}
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("toml") == key {
			if f.Type.Kind() == reflect.Slice {
				return f.Type.Elem(), true
			}
			return f.Type, true
		}
	}
	return nil, false
}

// distance is the number of edits between two short words (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
