// Package config reads the one configuration file (TOML). It is strict: an
// unknown key, a wrong type or an impossible value is a Problem with its line
// and column, and all problems are reported at once.
package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"stsrelay/internal/addr"
)

// Config is the whole file. Every key has a default that works; Default holds
// them. The comments of config.toml.example explain the keys to operators.
type Config struct {
	Hostname   addr.Domain  `toml:"hostname"`
	DataDir    string       `toml:"data_dir"`
	Postmaster addr.Address `toml:"postmaster"`
	Log        Log          `toml:"log"`
	Listeners  []Listener   `toml:"listener"`
	Network    Network      `toml:"network"`
	DNS        DNS          `toml:"dns"`
	STS        STS          `toml:"sts"`
	Queue      Queue        `toml:"queue"`
	Delivery   Delivery     `toml:"delivery"`
	Overrides  []Override   `toml:"override"`
	TLSRPT     TLSRPT       `toml:"tlsrpt"`
	DKIM       []DKIM       `toml:"dkim"`
	Admin      Admin        `toml:"admin"`
}

// Log is [log].
type Log struct {
	Level  string `toml:"level"`  // debug, info, warn, error
	Format string `toml:"format"` // json, console
}

// Listener is one [[listener]].
type Listener struct {
	Name           string         `toml:"name"`
	Address        string         `toml:"address"` // host:port, or unix:/path
	Protocol       string         `toml:"protocol"`
	Mode           string         `toml:"mode"`
	TLS            string         `toml:"tls"`
	CertFile       string         `toml:"cert_file"`
	KeyFile        string         `toml:"key_file"`
	Auth           string         `toml:"auth"`
	AllowFrom      []netip.Prefix `toml:"allow_from"`
	MaxMessageSize Size           `toml:"max_message_size"`
	LineEndings    string         `toml:"line_endings"`   // reject, normalize (ledger SMUG-02)
	StrictHeaders  bool           `toml:"strict_headers"` // refuse 8-bit headers without SMTPUTF8 (ledger UTF8-6532-01)
	CheckRcptDNS   bool           `toml:"check_rcpt_dns"` // refuse domains with a null MX at once (RFC 7505)
	HideClient     bool           `toml:"hide_client"`    // leave the client out of Received
	TLSRequired    bool           `toml:"tls_required_header"`
}

// Network is [network].
type Network struct {
	AllowPrivate []netip.Prefix `toml:"allow_private"`
}

// DNS is [dns].
type DNS struct {
	Servers []netip.AddrPort `toml:"servers"` // empty: resolv.conf
	TrustAD bool             `toml:"trust_ad"`
}

// STS is [sts].
type STS struct {
	DiscoveryFailureGrace Duration `toml:"discovery_failure_grace"`
	DANESupersedes        bool     `toml:"dane_supersedes"`
}

// Queue is [queue].
type Queue struct {
	Retry       []Duration `toml:"retry"` // the last repeats
	WarnAfter   Duration   `toml:"warn_after"`
	ExpireAfter Duration   `toml:"expire_after"`
	BounceVia   BounceVia  `toml:"bounce_via"`
}

// Delivery is [delivery].
type Delivery struct {
	Enforcement           string       `toml:"enforcement"` // on, audit
	MaxConnections        int          `toml:"max_connections"`
	MaxConnectionsPerHost int          `toml:"max_connections_per_host"`
	IPFamilies            []string     `toml:"ip_families"`
	ConnectTimeout        Duration     `toml:"connect_timeout"`
	Bind                  []netip.Addr `toml:"bind"`
	RootsFile             string       `toml:"roots_file"`
}

// Uses reports whether a family of ip_families is to be used.
func (d Delivery) Uses(family string) bool { return slices.Contains(d.IPFamilies, family) }

// TLSRPT is [tlsrpt].
type TLSRPT struct {
	Enabled      bool           `toml:"enabled"`
	Organization string         `toml:"organization"`
	Contact      addr.Address   `toml:"contact"` // null: sessions are counted, and nothing is sent
	From         addr.Address   `toml:"from"`    // null: contact
	SendingIP    string         `toml:"sending_ip"`
	Spread       Duration       `toml:"spread"`
	FailuresOnly bool           `toml:"failures_only"`
	Strict       bool           `toml:"strict_https"`
	Suppress     []string       `toml:"suppress"`
	Replace      []string       `toml:"replace"`
	BCC          []addr.Address `toml:"bcc"`
}

// DKIM is one [[dkim]].
type DKIM struct {
	Domain   addr.Domain `toml:"domain"`
	Selector string      `toml:"selector"`
	KeyFile  string      `toml:"key_file"`
}

// Admin is [admin].
type Admin struct {
	Socket string `toml:"socket"`
	HTTP   string `toml:"http"` // "" = off
}

// Default returns the configuration of an empty file for a process of this
// user: paths differ for root and others.
func Default() Config {
	return Config{
		DataDir: defaultDataDir(),
		Log:     Log{Level: "info", Format: "json"},
		STS:     STS{DiscoveryFailureGrace: minutes(10)},
		Queue: Queue{
			Retry:       []Duration{minutes(5), minutes(15), minutes(30), minutes(60), minutes(120), minutes(240)},
			WarnAfter:   minutes(240),
			ExpireAfter: minutes(5 * 24 * 60),
		},
		Delivery: Delivery{
			Enforcement:           "on",
			MaxConnections:        200,
			MaxConnectionsPerHost: 10,
			IPFamilies:            []string{"ipv6", "ipv4"},
			ConnectTimeout:        Duration{30 * time.Second},
		},
		TLSRPT: TLSRPT{Enabled: true, Spread: minutes(240)},
		Admin:  Admin{Socket: defaultSocket(), HTTP: "127.0.0.1:8025"},
	}
}

// DefaultListener is what a [[listener]] without keys is; it is also the one
// listener of a file that names none.
func DefaultListener() Listener {
	return Listener{
		Address:        "127.0.0.1:2525",
		Protocol:       "smtp",
		Mode:           "queue",
		TLS:            "off",
		Auth:           "off",
		AllowFrom:      []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		MaxMessageSize: 50 << 20,
		LineEndings:    "reject",
		TLSRequired:    true,
	}
}

func minutes(n int) Duration { return Duration{time.Duration(n) * time.Minute} }

func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/stsrelay"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "stsrelay")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "stsrelay-state" // no home: beside where we were started
	}
	return filepath.Join(home, ".local", "state", "stsrelay")
}

func defaultSocket() string {
	if os.Geteuid() == 0 {
		return "/run/stsrelay/admin.sock"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "stsrelay", "admin.sock")
	}
	return filepath.Join(defaultDataDir(), "admin.sock")
}

// Path returns the configuration file to read when --config is not given:
// $STSRELAY_CONFIG, else /etc/stsrelay/config.toml, else the user's.
func Path() string {
	if p := os.Getenv("STSRELAY_CONFIG"); p != "" {
		return p
	}
	const system = "/etc/stsrelay/config.toml"
	if _, err := os.Stat(system); err == nil {
		return system
	}
	if dir, err := os.UserConfigDir(); err == nil {
		own := filepath.Join(dir, "stsrelay", "config.toml")
		if _, err := os.Stat(own); err == nil {
			return own
		}
	}
	return system
}
