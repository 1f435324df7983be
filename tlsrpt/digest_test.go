package tlsrpt

import (
	"strings"
	"testing"
)

func TestDigest(t *testing.T) {
	d := NewDigest()
	add := func(old, new string) {
		t.Helper()
		r, err := ParseReceived([]byte(strings.Replace(sample, old, new, 1)))
		if err != nil || old != "" && !strings.Contains(sample, old) {
			t.Fatalf("%q: %v", old, err)
		}
		d.Add(r)
	}
	add("", "")
	add("", "") // once more, by another way
	add(`"start-datetime":"2026-11-20`, `"start-datetime":"2026-11-19`)
	add("Example Inc.", "Another")
	if d.Reports != 3 || d.Duplicates != 1 || d.Sessions != (Summary{3 * 1204, 30}) {
		t.Errorf("%d reports, %d twice, %+v", d.Reports, d.Duplicates, d.Sessions)
	}
	days := d.Days()
	if len(days) != 2 || days[0].Key != "2026-11-19" || days[1].Summary != (Summary{2 * 1204, 20}) || days[1].Reports != 2 {
		t.Errorf("%+v", days)
	}
	if s := d.Senders(); len(s) != 2 || s[0].Key != "Example Inc." || s[0].Failures != 20 {
		t.Errorf("%+v", s)
	}
	if r, h, p := d.Results(), d.Hosts(), d.Policies(); len(r) != 1 || r[0].Failures != 30 || len(h) != 1 || h[0].Key != "mx.backup.example.net" || p[0].Key != "sts example.com" {
		t.Errorf("%+v %+v %+v", r, h, p)
	}
	if c := d.Causes(); len(c) != 2 || c[0] != (CauseCount{Cause{ValidationFailure, "example.com", "mx.backup.example.net", "", "Example Inc."}, 20}) {
		t.Errorf("%+v", c)
	}
}
