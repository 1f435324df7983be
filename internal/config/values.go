package config

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// A Duration is a Go duration, with d for days of 24 hours in front: "5d",
// "1d12h", "30m". Never negative.
//
// It is a struct so that a bare number, which would be nanoseconds, is refused.
type Duration struct{ time.Duration }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	var days time.Duration
	if n, rest, ok := strings.Cut(s, "d"); ok {
		f, err := strconv.ParseFloat(n, 64)
		if err != nil || f < 0 || math.IsNaN(f) || f > 36500 {
			return fmt.Errorf("%q is not a duration like \"5d\", \"4h\" or \"30m\"", s)
		}
		days = time.Duration(f * float64(24*time.Hour))
		if s = rest; s == "" {
			d.Duration = days
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 || v+days < 0 {
		return fmt.Errorf("%q is not a duration like \"5d\", \"4h\" or \"30m\"", b)
	}
	d.Duration = v + days
	return nil
}

// String writes the shortest form that UnmarshalText reads.
func (d Duration) String() string {
	v := d.Duration
	const day = 24 * time.Hour
	if v >= day && v%day == 0 {
		return strconv.Itoa(int(v/day)) + "d"
	}
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// A Size is a number of octets, with an optional KiB, MiB or GiB.
type Size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (z *Size) UnmarshalText(b []byte) error {
	num, unit := string(b), int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if n, ok := strings.CutSuffix(num, suffix); ok {
			num, unit = strings.TrimSpace(n), u
			break
		}
	}
	v, err := strconv.ParseInt(num, 10, 64)
	if err != nil || v < 0 || v > math.MaxInt64/unit {
		return fmt.Errorf("%q is not a size like \"50MiB\" or \"256KiB\"", b)
	}
	*z = Size(v * unit)
	return nil
}

// String writes the size with the largest unit that divides it.
func (z Size) String() string {
	for _, u := range []struct {
		n    Size
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if z >= u.n && z%u.n == 0 {
			return strconv.FormatInt(int64(z/u.n), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(z), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (z Size) MarshalText() ([]byte, error) { return []byte(z.String()), nil }

// BounceVia is where DSNs go: smtp://host:port. The zero value sends them by
// MX like other mail.
type BounceVia struct{ Hop addr.NextHop }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *BounceVia) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*v = BounceVia{}
		return nil
	}
	u, err := url.Parse(string(b))
	if err != nil || u.Scheme != "smtp" || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" {
		return fmt.Errorf("%q is not of the form smtp://host:port", b)
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "IPv6:" + host
	}
	hop := "[" + host + "]"
	if u.Port() != "" {
		hop += ":" + u.Port()
	}
	if v.Hop, err = addr.ParseNextHop(hop); err != nil {
		return fmt.Errorf("%q is not of the form smtp://host:port", b)
	}
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (v BounceVia) MarshalText() ([]byte, error) {
	if v.Hop.IsZero() {
		return nil, nil
	}
	host := ""
	if h, ok := v.Hop.Host(); ok {
		host = h.String()
	} else if ip, ok := v.Hop.Literal(); ok {
		host = ip.String()
		if ip.Is6() {
			host = "[" + host + "]"
		}
	}
	return fmt.Appendf(nil, "smtp://%s:%d", host, v.Hop.Port()), nil
}
