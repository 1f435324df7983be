package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// DecodeStrict reads another TOML file than ours into v. It stops at the first
// problem and says on which line it is.
func DecodeStrict(data []byte, v any) (line int, err error) {
	err = toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(v)
	var wrong *toml.DecodeError
	var unknown *toml.StrictMissingError
	switch {
	case errors.As(err, &unknown):
		line, _ = unknown.Errors[0].Position()
		return line, fmt.Errorf("unknown key %s", strings.Join(unknown.Errors[0].Key(), "."))
	case errors.As(err, &wrong):
		line, _ = wrong.Position()
		return line, errors.New(strings.TrimPrefix(wrong.Error(), "toml: "))
	}
	return 1, err
}
