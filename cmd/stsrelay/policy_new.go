package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/config"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"

	"github.com/spf13/cobra"
)

// A newJob is what `policy new` was asked to make.
type newJob struct {
	mode, maxAge, resolver, rua, web, dir string
	mx                                    []string
}

func newPolicyNew(g *globals) *cobra.Command {
	var j newJob
	cmd := &cobra.Command{
		Use: "new DOMAIN", Short: "Write a policy and its DNS records from the MX records of a domain",
		Long: `Write a policy and its DNS records from the MX records of a domain, with the steps to publish them. Begin
with mode testing, read the reports for two weeks, and make it anew with --mode enforce.`,
		Example: "  stsrelay policy new example.com -o out --web nginx\n  stsrelay policy new example.com --mode enforce --max-age 14d",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return j.run(cmd, g, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&j.mode, "mode", string(stscache.Testing), "`MODE`: testing, enforce or none")
	f.StringVar(&j.maxAge, "max-age", "", "how long senders keep it, such as 14d (default 7d in mode testing, 14d in enforce, 1d in none)")
	f.StringArrayVar(&j.mx, "mx", nil, "`PATTERN` of an mx line, in place of the MX records; may be repeated")
	f.StringVar(&j.rua, "rua", "", "where TLS reports go: `mailto:ADDRESS` or an https URL (default mailto:tls-reports@DOMAIN)")
	f.StringVar(&j.web, "web", "", "show how the `SERVER` is to serve it: nginx, caddy or apache")
	f.StringVarP(&j.dir, "output", "o", "", "write mta-sts.txt and records.zone into `DIR`")
	f.StringVar(&j.resolver, "resolver", "", "DNS server `IP[:PORT]` (default: /etc/resolv.conf)")
	return cmd
}

// A publication is all that is to be published.
type publication struct {
	domain  addr.Domain
	policy  stscache.Policy
	id      string
	rua     string
	records []string // zone lines
}

// defaultAges are what guides recommend for each mode.
var defaultAges = map[stscache.Mode]time.Duration{stscache.Testing: 7 * 24 * time.Hour, stscache.Enforce: 14 * 24 * time.Hour, stscache.None: 24 * time.Hour}

func (j newJob) run(cmd *cobra.Command, g *globals, name string) error {
	p, err := j.publication(cmd.Context(), name)
	if err != nil {
		return err
	}
	snippet := webSnippet(j.web, p.domain)
	if j.web != "" && snippet == "" {
		return usagef("--web: %q is not one of nginx, caddy, apache", j.web)
	}
	file := stscache.Compose(p.policy)
	if j.dir != "" {
		if err := writeFiles(j.dir, map[string][]byte{"mta-sts.txt": file, "records.zone": []byte(strings.Join(p.records, "\n") + "\n")}); err != nil {
			return err
		}
	}
	if g.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"schema": "stsrelay.policy-new/v1", "domain": p.domain.String(),
			"policy": string(file), "url": stscache.PolicyURL(p.domain), "id": p.id, "records": p.records})
	}
	p.print(cmd.OutOrStdout(), j, string(file), snippet)
	return nil
}

func (j newJob) publication(ctx context.Context, name string) (p publication, err error) {
	if p.domain, err = addr.ParseDomain(name); err != nil {
		return p, usagef("%w", err)
	}
	p.policy.Mode = stscache.Mode(j.mode)
	if p.policy.MaxAge, err = j.age(); err != nil {
		return p, err
	}
	if p.policy.Mode != stscache.None {
		if p.policy.MX, err = j.patterns(ctx, p.domain); err != nil {
			return p, err
		}
	}
	if _, found := stscache.LintPolicy(stscache.Compose(p.policy)); slices.ContainsFunc(found, func(q stscache.Problem) bool { return q.Severity == stscache.SeverityError }) {
		return p, usagef("--mx: %s", found[0].Text)
	}
	p.id = stscache.NewID(time.Now())
	if p.rua = j.rua; p.rua == "" {
		p.rua = "mailto:tls-reports@" + p.domain.String()
	}
	p.records = []string{
		"mta-sts." + p.domain.String() + ".    3600 IN CNAME your-web-server.example.",
		"_mta-sts." + p.domain.String() + ".   300  IN TXT   \"" + stscache.ComposeRecord(p.id) + `"`,
		"_smtp._tls." + p.domain.String() + ". 3600 IN TXT   \"v=TLSRPTv1; rua=" + p.rua + `"`,
	}
	return p, nil
}

// age is the max_age.
func (j newJob) age() (time.Duration, error) {
	age, ok := defaultAges[stscache.Mode(j.mode)]
	if !ok {
		return 0, usagef("--mode: %q is not one of testing, enforce, none", j.mode)
	}
	if j.maxAge == "" {
		return age, nil
	}
	var d config.Duration
	if err := d.UnmarshalText([]byte(j.maxAge)); err != nil || d.Duration < 0 || d.Duration > stscache.MaxAge {
		return 0, usagef("--max-age: %q is no duration of at most a year, such as 14d", j.maxAge)
	}
	return d.Duration, nil
}

// patterns are those that were given, or the MX hosts of the domain.
func (j newJob) patterns(ctx context.Context, domain addr.Domain) (list []stscache.Pattern, err error) {
	for _, m := range j.mx {
		list = append(list, stscache.Pattern(strings.ToLower(m)))
	}
	if len(list) > 0 {
		return list, nil
	}
	hosts, err := mxHosts(ctx, j.resolver, domain)
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		list = append(list, stscache.Pattern(h.String()))
	}
	return list, nil
}

// mxHosts are the MX hosts of a domain, which is its own without any (RFC 5321,
// Section 5.1).
func mxHosts(ctx context.Context, server string, domain addr.Domain) (hosts []addr.Host, err error) {
	dns, err := newToolResolver(server)
	if err != nil {
		return nil, err
	}
	answer, err := dns.MX(ctx, domain)
	switch {
	case errors.Is(err, resolver.ErrNXDomain):
		return nil, fmt.Errorf("%s does not exist: %w", domain, err)
	case err != nil:
		return nil, exitError{exitUnknown, fmt.Errorf("the MX records of %s could not be had: %w", domain, err)}
	case len(answer.Records) == 0:
		return []addr.Host{domain.Host()}, nil
	}
	for _, r := range answer.Records {
		if !r.Host.IsZero() && !slices.Contains(hosts, r.Host) {
			hosts = append(hosts, r.Host)
		}
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("%s takes no mail: its MX records name no host", domain)
	}
	return hosts, nil
}

func writeFiles(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (p publication) print(w io.Writer, j newJob, file, snippet string) {
	where := func(name string) string {
		if j.dir == "" {
			return ""
		}
		return "   (" + filepath.Join(j.dir, name) + ")"
	}
	fmt.Fprintf(w, "1. Serve this at %s%s\n", stscache.PolicyURL(p.domain), where("mta-sts.txt"))
	indent(w, file)
	fmt.Fprintf(w, "   as text/plain, with status 200, without a redirect, under a valid certificate for mta-sts.%s.\n", p.domain)
	if snippet != "" {
		fmt.Fprintf(w, "   For %s:\n", j.web)
		indent(w, snippet)
	}
	fmt.Fprintf(w, "2. When that works, publish these DNS records, the one at _mta-sts last%s\n", where("records.zone"))
	indent(w, p.records[0]+"\n"+p.records[2]+"\n"+p.records[1])
	fmt.Fprintf(w, "3. See what senders make of it: stsrelay check %s\n", p.domain)
	switch p.policy.Mode {
	case stscache.Testing:
		fmt.Fprintf(w, "4. In two weeks, when no report tells of a failure: stsrelay policy new %s --mode enforce\n", p.domain)
	case stscache.Enforce:
		fmt.Fprintf(w, "4. Whenever MX hosts come or go, change the file first, then the id, then the MX records.\n   To turn it off: stsrelay policy retire %s\n", p.domain)
	}
	fmt.Fprintln(w, "\nWhen the file changes, the id must change: senders look for a new policy only then.")
}

func indent(w io.Writer, s string) {
	for line := range strings.Lines(strings.TrimRight(s, "\r\n")) {
		fmt.Fprintf(w, "     %s\n", strings.TrimRight(line, "\r\n"))
	}
}

// webSnippet is how a web server serves the policy, "" for one we do not know.
func webSnippet(server string, domain addr.Domain) string {
	name := "mta-sts." + domain.String()
	switch server {
	case "nginx":
		return `server {
    listen 443 ssl;
    listen [::]:443 ssl;
    server_name ` + name + `;
    ssl_certificate     /etc/ssl/` + name + `.pem;
    ssl_certificate_key /etc/ssl/` + name + `.key;
    location = /.well-known/mta-sts.txt {
        alias /var/www/` + name + `/mta-sts.txt;
        default_type text/plain;
    }
    location / { return 404; }
}`
	case "caddy":
		return name + ` {
    root * /var/www/` + name + `
    handle /.well-known/mta-sts.txt {
        rewrite * /mta-sts.txt
        header Content-Type text/plain
        file_server
    }
    respond 404
}`
	case "apache":
		return `<VirtualHost *:443>
    ServerName ` + name + `
    SSLEngine on
    SSLCertificateFile    /etc/ssl/` + name + `.pem
    SSLCertificateKeyFile /etc/ssl/` + name + `.key
    Alias /.well-known/mta-sts.txt /var/www/` + name + `/mta-sts.txt
    <Files mta-sts.txt>
        ForceType text/plain
        Require all granted
    </Files>
</VirtualHost>`
	}
	return ""
}
