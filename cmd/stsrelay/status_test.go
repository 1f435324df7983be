package main

import (
	"testing"
	"time"

	"stsrelay/internal/admin"
)

func TestStatusTellsOfDNSSEC(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	hour := now.Add(-time.Hour)
	for want, d := range map[string]admin.DNSSECStatus{
		"self-test under way": {},
		"unknown, DANE off, 2 TLSA hosts known (nobody answered)":              {Tested: now, TLSAHosts: 2, Error: "nobody answered"},
		"validated for 1h0m, 1 TLSA host known":                                {Tested: now, Since: hour, Validating: true, DANE: true, TLSAHosts: 1},
		"not validated for 1h0m, DANE off, 0 TLSA hosts known (no AD)":         {Tested: now, Since: hour, Error: "no AD"},
		"not validated for 1h0m, DANE on by trust_ad, 0 TLSA hosts known (no)": {Tested: now, Since: hour, DANE: true, Error: "no"},
	} {
		if got := dnssecText(d, now); got != want {
			t.Errorf("%+v is told as %q, want %q", d, got, want)
		}
	}
}
