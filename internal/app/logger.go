package app

import (
	"io"
	"time"

	"stsrelay/internal/config"

	"github.com/rs/zerolog"
)

// Logger makes the log that a configuration asks for: JSON objects, or lines
// for people.
func Logger(c config.Log, w io.Writer) zerolog.Logger {
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		level = zerolog.InfoLevel // config has checked it
	}
	if c.Format == "console" {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.RFC3339}
	}
	return zerolog.New(zerolog.SyncWriter(w)).Level(level).With().Timestamp().Logger()
}
