package app

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"stsrelay/internal/config"

	"github.com/rs/zerolog"
)

// A certificate is that of a listener. Its files are read again when they have
// changed, so that a renewal needs no restart.
type certificate struct {
	listener          string
	certFile, keyFile string
	log               zerolog.Logger

	mu      sync.Mutex // guards what follows
	pair    *tls.Certificate
	seen    [2]fs.FileInfo // the files that pair is of
	looked  time.Time
	problem string // why the files are not used, "" if they are
}

// lookEvery is how often a handshake looks whether the files have changed.
const lookEvery = time.Minute

func newCertificate(l config.Listener, log zerolog.Logger) (*certificate, error) {
	c := &certificate{listener: l.Name, certFile: l.CertFile, keyFile: l.KeyFile, log: log, looked: time.Now()}
	if _, err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

// config is for the listener (RFC 9325, Section 3.1.1).
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(time.Now()), nil },
	}
}

// get returns the newest pair that could be loaded.
func (c *certificate) get(now time.Time) *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.looked).Abs() < lookEvery {
		return c.pair
	}
	c.looked = now
	switch changed, err := c.read(); {
	case err != nil && err.Error() != c.problem: // once, not every minute
		c.problem = err.Error()
		c.log.Warn().Err(err).Str("listener", c.listener).Msg("the new certificate cannot be used; the old one stays")
	case err == nil && (changed || c.problem != ""):
		c.problem = ""
		c.log.Info().Str("listener", c.listener).Time("expires", c.pair.Leaf.NotAfter).Msg("a new certificate is used")
	}
	return c.pair
}

// read loads the files if they are not those of the pair. They are looked at
// before they are read, so that a change in between is seen the next time. The
// caller holds mu, or has c to itself.
func (c *certificate) read() (changed bool, err error) {
	var now [2]fs.FileInfo
	var errs [2]error
	now[0], errs[0] = os.Stat(c.certFile)
	now[1], errs[1] = os.Stat(c.keyFile)
	if err := errors.Join(errs[:]...); err != nil {
		return false, err
	}
	if c.pair != nil && same(c.seen[0], now[0]) && same(c.seen[1], now[1]) {
		return false, nil
	}
	pair, err := config.LoadCertificate(c.certFile, c.keyFile)
	if err != nil {
		return false, err
	}
	c.pair, c.seen = &pair, now
	return true, nil
}

func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
