package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"stsrelay/tlsrpt"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
)

func newReport(g *globals) *cobra.Command {
	var j reportJob
	show := &cobra.Command{
		Use: "show FILE|DIR|-...", Short: "Read the TLS reports that others sent you, and say what they mean",
		Long: `Read the TLS reports that others sent you (RFC 8460), and say what they mean: JSON, gzip, zip, mail messages, mboxes and
folders of them, maildirs too. What a file is is told by its content. What senders do against the RFC is tolerated; -v says what.

Exit codes: 0; 1 with --fail-on-failure when a session failed; 3 when no report was found.`,
		Example: "  stsrelay report show ~/Mail/tls-reports/\n  stsrelay report show --html reports.html reports/*.eml",
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return j.run(cmd, g, args) },
	}
	f := show.Flags()
	f.StringVar(&j.html, "html", "", "write a page with charts to `FILE`, which needs nothing else to be looked at")
	f.BoolVar(&j.fail, "fail-on-failure", false, "exit with 1 when a session failed")
	f.BoolVarP(&j.verbose, "verbose", "v", false, "say what was tolerated, and of whom")
	f.StringVar(&j.domain, "domain", "", "only what is about the policies of `DOMAIN`")
	return group("report", "Look at the TLS reports that others sent you", show)
}

// A reportJob is what `report show` was asked to do, and what it has found.
type reportJob struct {
	html, domain  string
	fail, verbose bool

	digest  *tlsrpt.Digest
	reports []tlsrpt.Received
	faults  []string
}

// maxReportFiles bounds the files of one call.
const maxReportFiles = 100_000

func (j *reportJob) run(cmd *cobra.Command, g *globals, paths []string) error {
	j.digest = tlsrpt.NewDigest()
	for _, path := range paths {
		if err := j.read(cmd.InOrStdin(), path); err != nil {
			return err
		}
	}
	for _, s := range j.faults {
		fmt.Fprintf(cmd.ErrOrStderr(), "stsrelay: %s\n", printable(s))
	}
	if j.digest.Reports == 0 {
		return exitError{exitUnknown, fmt.Errorf("no TLS report was found")}
	}
	if err := j.show(cmd.OutOrStdout(), g); err != nil {
		return err
	}
	if j.html != "" {
		if err := writeReportPage(j.html, j.digest); err != nil {
			return err
		}
	}
	if j.fail && j.digest.Sessions.Failures > 0 {
		return exitError{exitBad, nil}
	}
	return nil
}

// read reads a file, or every file below a folder.
func (j *reportJob) read(stdin io.Reader, path string) error {
	if path == "-" {
		j.unpack("stdin", stdin)
		return nil
	}
	files := 0
	return filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return nil
		case !entry.Type().IsRegular() && name != path:
			return nil
		}
		if files++; files > maxReportFiles {
			return fmt.Errorf("%s has more than %d files", path, maxReportFiles)
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		j.unpack(name, f)
		return nil
	})
}

func (j *reportJob) unpack(name string, r io.Reader) {
	tlsrpt.Unpack(name, r, func(r tlsrpt.Received, err error) bool {
		if err != nil {
			j.faults = append(j.faults, r.Source+": "+err.Error())
			return true
		}
		if j.domain != "" {
			r.Policies = slices.DeleteFunc(r.Policies, func(p tlsrpt.ReportPolicy) bool { return !strings.EqualFold(p.Policy.Domain, j.domain) })
			if len(r.Policies) == 0 {
				return true
			}
		}
		j.digest.Add(r)
		j.reports = append(j.reports, r)
		return true
	})
}

func (j *reportJob) show(w io.Writer, g *globals) error {
	if g.json {
		e := json.NewEncoder(w)
		for _, r := range j.reports {
			if err := e.Encode(reportJSON{"stsrelay.report/v1", r.Source, r.Report, append([]string{}, r.Notes...)}); err != nil {
				return err
			}
		}
		return nil
	}
	g.printer(w).digest(j.digest)
	if j.verbose {
		for _, r := range j.reports {
			for _, n := range r.Notes {
				fmt.Fprintf(w, " tolerated: %s: %s (%s)\n", printable(r.Source), n, r.Organization)
			}
		}
	}
	return nil
}

// A reportJSON is one line of `report show --json`: the report in the form of
// RFC 8460, mended.
type reportJSON struct {
	Schema string        `json:"schema"`
	Source string        `json:"source"`
	Report tlsrpt.Report `json:"report"`
	Notes  []string      `json:"notes"`
}

func (p printer) digest(d *tlsrpt.Digest) {
	days := d.Days()
	fmt.Fprintf(p.w, "%s from %s, %s to %s", plural(d.Reports, "report"), plural(len(d.Senders()), "sender"), days[0].Key, days[len(days)-1].Key)
	if d.Duplicates > 0 {
		fmt.Fprintf(p.w, " (%d came more than once)", d.Duplicates)
	}
	fmt.Fprintf(p.w, "\n%s, %d failed%s\n\n", plural(int(d.Sessions.Successes+d.Sessions.Failures), "session"), d.Sessions.Failures, share(d.Sessions))
	p.dayChart(days)
	p.buckets("SENDER", d.Senders())
	p.buckets("POLICY", d.Policies())
	p.causes(d.Causes())
}

// share is the part that failed: " (0.8 %)".
func share(s tlsrpt.Summary) string {
	if s.Failures == 0 || s.Failures+s.Successes == 0 {
		return ""
	}
	return fmt.Sprintf(" (%.1f %%)", 100*float64(s.Failures)/float64(s.Failures+s.Successes))
}

// Bounds of what is shown for people; --json has all.
const (
	maxDaysShown    = 31
	maxBucketsShown = 10
	maxCausesShown  = 20
	chartWidth      = 40
)

// dayChart draws a bar for each of the last days, the failed part at its end.
func (p printer) dayChart(days []tlsrpt.Bucket) {
	if len(days) > maxDaysShown {
		fmt.Fprintf(p.w, " the last %d of %d days\n", maxDaysShown, len(days))
		days = days[len(days)-maxDaysShown:]
	}
	var most int64 = 1
	for _, b := range days {
		most = max(most, b.Successes+b.Failures)
	}
	good, bad := "█", "▒"
	if p.ascii {
		good, bad = "#", "x"
	}
	fmt.Fprintf(p.w, " %-10s  %10s  %8s\n", "DAY", "SESSIONS", "FAILED")
	for _, b := range days {
		total := b.Successes + b.Failures
		all := int((total*chartWidth + most - 1) / most)
		failed := 0
		if b.Failures > 0 {
			failed = max(1, int(b.Failures*int64(all)/max(total, 1)))
		}
		fmt.Fprintf(p.w, " %-10s  %10d  %8d  %s%s\n", b.Key, total, b.Failures, strings.Repeat(good, max(0, all-failed)), p.paint(text.FgRed, strings.Repeat(bad, failed)))
	}
	fmt.Fprintln(p.w)
}

func (p printer) buckets(title string, list []tlsrpt.Bucket) {
	fmt.Fprintf(p.w, " %-40s  %10s  %8s\n", title, "SESSIONS", "FAILED")
	for _, b := range list[:min(len(list), maxBucketsShown)] {
		fmt.Fprintf(p.w, " %-40s  %10d  %8d%s\n", p.cut(cmp.Or(b.Key, "(no name)"), 40), b.Successes+b.Failures, b.Failures, share(b.Summary))
	}
	if n := len(list) - maxBucketsShown; n > 0 {
		fmt.Fprintf(p.w, " and %d more\n", n)
	}
	fmt.Fprintln(p.w)
}

// causes says what failed, what it means and what to do.
func (p printer) causes(list []tlsrpt.CauseCount) {
	if len(list) == 0 {
		fmt.Fprintln(p.w, " Nothing failed.")
		return
	}
	fmt.Fprintln(p.w, " WHAT FAILED")
	for _, c := range list[:min(len(list), maxCausesShown)] {
		at := ""
		if c.MX != "" {
			at = " at " + c.MX
		}
		why := ""
		if c.Reason != "" {
			why = ": " + c.Reason
		}
		fmt.Fprintf(p.w, " %6d  %s%s%s   (told by %s)\n", c.Sessions, p.paint(text.FgRed, printable(string(c.Result))), printable(at), printable(why), printable(c.Sender))
		fmt.Fprintf(p.w, "         %s\n", causeMeaning(c))
		fmt.Fprintf(p.w, "         %s\n", causeStep(c))
	}
	if n := len(list) - maxCausesShown; n > 0 {
		fmt.Fprintf(p.w, " and %d more kinds\n", n)
	}
}

func causeMeaning(c tlsrpt.CauseCount) string {
	return cmp.Or(c.Result.Meaning(), "a result type that RFC 8460 does not have")
}

// causeStep is what to do next.
func causeStep(c tlsrpt.CauseCount) string {
	domain := printable(c.Domain)
	switch c.Result {
	case tlsrpt.STSPolicyFetchError, tlsrpt.STSPolicyInvalid, tlsrpt.STSWebPKIInvalid:
		return "Next: stsrelay policy show " + domain
	case tlsrpt.TLSAInvalid, tlsrpt.DNSSECInvalid, tlsrpt.DANERequired:
		return "Next: stsrelay check DOMAIN, for a domain whose mail goes to " + cmp.Or(printable(c.MX), domain) + "; the resolver there must validate DNSSEC"
	}
	return "Next: stsrelay check " + domain
}
