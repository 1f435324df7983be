package config

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"stsrelay/internal/addr"
)

// validator checks what the types cannot, and fills in what each listener
// leaves out.
type validator struct {
	c    *Config
	doc  outlined
	list []Problem
}

func (v *validator) problem(key, format string, args ...any) {
	at := v.doc.at[key]
	for parent := key; at.line == 0 && parent != ""; {
		i := strings.LastIndexByte(parent, '.')
		parent = parent[:max(i, 0)]
		at = v.doc.at[parent]
	}
	v.list = append(v.list, Problem{at.line, at.column, key, fmt.Sprintf(format, args...)})
}

func (v *validator) all() {
	c := v.c
	if c.Hostname.IsZero() {
		v.problem("hostname", "missing; set it to the name this relay has in DNS, like \"relay.example.com\"")
	} else if !strings.Contains(c.Hostname.String(), ".") {
		v.problem("hostname", "%q is not a full name; other servers refuse a name without a dot (RFC 5321, Section 2.3.5)", c.Hostname)
	}
	v.absolute("data_dir", c.DataDir)
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, "json", "console")
	v.listeners()
	v.queue()
	v.delivery()
	v.overrides()
	v.tlsrpt()
	v.dkim()
	v.admin()
}

func (v *validator) listeners() {
	c := v.c
	if len(c.Listeners) == 0 {
		c.Listeners = []Listener{DefaultListener()}
	}
	names, addresses := map[string]int{}, map[string]int{}
	for i := range c.Listeners {
		l, at := &c.Listeners[i], fmt.Sprintf("listener[%d]", i)
		v.fill(at, l, DefaultListener())
		if l.Name == "" {
			l.Name = l.Address
		}
		if j, ok := names[l.Name]; ok {
			v.problem(at+".name", "listener[%d] has the name %q too", j, l.Name)
		}
		if j, ok := addresses[l.Address]; ok {
			v.problem(at+".address", "listener[%d] has the address %q too", j, l.Address)
		}
		names[l.Name], addresses[l.Address] = i, i
		v.listener(at, l)
	}
}

func (v *validator) listener(at string, l *Listener) {
	if path, ok := strings.CutPrefix(l.Address, "unix:"); ok {
		v.absolute(at+".address", path)
	} else {
		v.hostPort(at+".address", l.Address)
	}
	if v.oneOf(at+".protocol", l.Protocol, "smtp", "lmtp") && l.Protocol == "lmtp" {
		v.problem(at+".protocol", "\"lmtp\" is not built yet in this version; use \"smtp\"")
	}
	if v.oneOf(at+".mode", l.Mode, "queue", "passthrough") && l.Mode == "passthrough" {
		v.problem(at+".mode", "\"passthrough\" is not built yet in this version; use \"queue\"")
	}
	if v.oneOf(at+".auth", l.Auth, "off", "optional", "required") && l.Auth != "off" {
		v.problem(at+".auth", "%q is not built yet in this version; use \"off\" and allow_from", l.Auth)
	}
	v.oneOf(at+".line_endings", l.LineEndings, "reject", "normalize")
	v.certificate(at, l)
	if l.MaxMessageSize < 64<<10 {
		v.problem(at+".max_message_size", "%s is less than the 64KiB that every server must take (RFC 5321, Section 4.5.3.1.7)", l.MaxMessageSize)
	}
	for _, p := range l.AllowFrom {
		if p.Bits() == 0 {
			v.problem(at+".allow_from", "%s is everybody: that is an open relay; list the networks of your own clients", p)
		} else if p != p.Masked() {
			v.problem(at+".allow_from", "%s has bits beyond its length; did you mean %s?", p, p.Masked())
		}
	}
}

// fill gives the absent keys of a table of a list their defaults.
func (v *validator) fill(at string, l, defaults any) {
	from, to := reflect.ValueOf(defaults), reflect.ValueOf(l).Elem()
	for i := range to.NumField() {
		key := at + "." + to.Type().Field(i).Tag.Get("toml")
		if _, ok := v.doc.at[key]; !ok && to.Field(i).IsZero() {
			to.Field(i).Set(from.Field(i))
		}
	}
}

func (v *validator) queue() {
	q := v.c.Queue
	if len(q.Retry) == 0 {
		v.problem("queue.retry", "must list at least one interval")
	}
	for i, d := range q.Retry {
		if d.Duration < time.Second {
			v.problem("queue.retry", "interval %d, %s, is less than a second", i+1, d)
		}
	}
	if q.ExpireAfter.Duration < time.Minute {
		v.problem("queue.expire_after", "%s is less than a minute: mail would be returned before a second attempt", q.ExpireAfter)
	}
}

func (v *validator) delivery() {
	d := v.c.Delivery
	v.oneOf("delivery.enforcement", d.Enforcement, "on", "audit")
	v.between("delivery.max_connections", d.MaxConnections, 1, 100_000)
	v.between("delivery.max_connections_per_host", d.MaxConnectionsPerHost, 1, 10_000)
	if len(d.IPFamilies) == 0 {
		v.problem("delivery.ip_families", "must name \"ipv6\", \"ipv4\" or both")
	}
	for i, f := range d.IPFamilies {
		if v.oneOf("delivery.ip_families", f, "ipv6", "ipv4") && slices.Contains(d.IPFamilies[:i], f) {
			v.problem("delivery.ip_families", "%q stands twice", f)
		}
	}
	if d.ConnectTimeout.Duration <= 0 {
		v.problem("delivery.connect_timeout", "must be more than 0s")
	}
	if d.RootsFile != "" {
		if _, err := LoadRoots(d.RootsFile); err != nil {
			v.problem("delivery.roots_file", "%v", err)
		}
	}
}

func (v *validator) tlsrpt() {
	if s := v.c.TLSRPT.SendingIP; s != "" {
		if _, err := netip.ParseAddr(s); err != nil {
			v.problem("tlsrpt.sending_ip", "%q is not an IP address", s)
		}
	}
}

func (v *validator) dkim() {
	for i, k := range v.c.DKIM {
		at := fmt.Sprintf("dkim[%d]", i)
		if k.Domain.IsZero() {
			v.problem(at+".domain", "missing")
		}
		if k.Selector == "" {
			v.problem(at+".selector", "missing")
		}
		if k.KeyFile == "" {
			v.problem(at+".key_file", "missing")
		} else if _, err := os.ReadFile(k.KeyFile); err != nil {
			v.problem(at+".key_file", "%v", err)
		}
	}
}

func (v *validator) admin() {
	a := v.c.Admin
	if a.Socket == "" {
		v.problem("admin.socket", "must not be empty: the commands talk to the daemon there")
	} else {
		v.absolute("admin.socket", a.Socket)
	}
	if len(a.Socket) > 100 {
		v.problem("admin.socket", "the path of a Unix socket is at most 100 octets long here; this one has %d", len(a.Socket))
	}
	if a.HTTP != "" {
		v.hostPort("admin.http", a.HTTP)
		if host, _, err := net.SplitHostPort(a.HTTP); err == nil && !loopback(host) {
			v.problem("admin.http", "%s is not a loopback address: the page has no login in this version", host)
		}
	}
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (v *validator) oneOf(key, value string, allowed ...string) bool {
	if slices.Contains(allowed, value) {
		return true
	}
	v.problem(key, "%q is not one of %s", value, strings.Join(allowed, ", "))
	return false
}

func (v *validator) between(key string, n, low, high int) {
	if n < low || n > high {
		v.problem(key, "%d is not between %d and %d", n, low, high)
	}
}

func (v *validator) absolute(key, path string) {
	if !filepath.IsAbs(path) {
		v.problem(key, "%q is not an absolute path", path)
	}
}

func (v *validator) hostPort(key, s string) {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		v.problem(key, "%q is not of the form host:port", s)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 && port != "0" {
		v.problem(key, "%q is not a port", port)
	}
}

// LoadRoots reads a PEM bundle of CA certificates.
func LoadRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, nil
}

// Warnings says what is accepted but will surprise: for `config check` and the
// log at start.
func (c Config) Warnings() []string {
	var w []string
	for _, l := range c.Listeners {
		w = append(w, l.tlsWarnings()...)
	}
	for _, o := range c.Overrides {
		w = append(w, o.warning(time.Now()))
	}
	switch r := c.TLSRPT; {
	case r.Enabled && r.Contact.IsNull():
		w = append(w, "[tlsrpt] contact is empty: sessions are counted, and no TLS report is sent")
	case r.Enabled && !c.signs(r.Contact):
		w = append(w, "no [[dkim]] key of the domain of [tlsrpt] contact: TLS reports go by HTTPS only, since those by mail must be signed (RFC 8460, Section 3)")
	}
	if c.Delivery.Enforcement == "audit" {
		w = append(w, "[delivery] enforcement = \"audit\": policies are evaluated and counted, nothing is refused")
	}
	if c.Postmaster.IsNull() {
		w = append(w, "postmaster is empty: bounces that cannot be delivered are told in the log only")
	}
	return w
}

func (c Config) signs(a addr.Address) bool {
	d, _ := a.Domain()
	return slices.ContainsFunc(c.DKIM, func(k DKIM) bool { return k.Domain == d })
}
