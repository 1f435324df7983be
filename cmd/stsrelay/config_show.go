package main

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"stsrelay/internal/config"
)

// A setting is a key and its value: a string, a number, a bool, a list of
// strings, a table, or a list of tables.
type setting struct {
	key   string
	value any
}

// A tableOf is settings in the order of the file.
type tableOf []setting

// settings are all keys of a configuration.
func settings(c config.Config) tableOf { return structOf(reflect.ValueOf(c)) }

func structOf(v reflect.Value) (t tableOf) {
	for i := range v.NumField() {
		t = append(t, setting{v.Type().Field(i).Tag.Get("toml"), valueOf(v.Field(i))})
	}
	return t
}

// valueOf turns a value into what a file can say.
func valueOf(v reflect.Value) any {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if err != nil {
			return ""
		}
		return string(text)
	}
	switch v.Kind() {
	case reflect.Struct:
		return structOf(v)
	case reflect.Slice:
		return listOf(v)
	}
	return v.Interface()
}

// listOf tells a list of tables from a list of values.
func listOf(v reflect.Value) any {
	if e := v.Type().Elem(); e.Kind() == reflect.Struct && !e.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		tables := []tableOf{}
		for i := range v.Len() {
			tables = append(tables, structOf(v.Index(i)))
		}
		return tables
	}
	list := []any{}
	for i := range v.Len() {
		list = append(list, valueOf(v.Index(i)))
	}
	return list
}

// MarshalJSON keeps the order of the file.
func (t tableOf) MarshalJSON() ([]byte, error) {
	parts := make([]string, len(t))
	for i, s := range t {
		value, err := json.Marshal(s.value)
		if err != nil {
			return nil, err
		}
		parts[i] = fmt.Sprintf("%q:%s", s.key, value)
	}
	return []byte("{" + strings.Join(parts, ",") + "}"), nil
}

// tomlOf writes a configuration file.
func tomlOf(t tableOf) string {
	var b strings.Builder
	for _, s := range t {
		switch s.value.(type) {
		case tableOf, []tableOf:
		default:
			fmt.Fprintf(&b, "%s = %s\n", s.key, literal(s.value))
		}
	}
	for _, s := range t {
		switch v := s.value.(type) {
		case tableOf:
			fmt.Fprintf(&b, "\n[%s]\n%s", s.key, tomlOf(v))
		case []tableOf:
			for _, row := range v {
				fmt.Fprintf(&b, "\n[[%s]]\n%s", s.key, tomlOf(row))
			}
		}
	}
	return b.String()
}

// literal writes a value; what JSON writes is TOML too.
func literal(v any) string {
	if list, ok := v.([]any); ok {
		texts := make([]string, len(list))
		for i, e := range list {
			texts[i] = literal(e)
		}
		return "[" + strings.Join(texts, ", ") + "]"
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return `""`
	}
	return strings.TrimSpace(b.String())
}
