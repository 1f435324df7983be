package admin_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"stsrelay/internal/admin"
)

func TestMetrics(t *testing.T) {
	d := open(t, nil)
	d.mu.Lock()
	d.status = admin.Status{Version: "1.2.3", Healthy: true, Queue: admin.QueueStatus{Active: 1, Deferred: 2, Bytes: 4096, OldestSeconds: 7.5},
		Counters: map[string]uint64{"sent": 5, "accepted": 6}, Policies: map[string]int{"enforce": 3}, Overrides: 2, Warnings: []string{"one"},
		DNSSEC:  admin.DNSSECStatus{DANE: true, TLSAHosts: 4},
		Reports: admin.ReportStatus{LastRun: time.Unix(1700000000, 0)}, Destinations: []admin.Destination{{Name: "secret.example"}}}
	d.mu.Unlock()
	code, body := request(t, http.DefaultClient, "GET", d.page+"/metrics", "", "")
	if code != http.StatusOK {
		t.Fatal(code, body)
	}
	for name, lines := range map[string][]string{
		"queue": {`stsrelay_queue_messages{state="active"} 1`, `stsrelay_queue_messages{state="deferred"} 2`, `stsrelay_queue_messages{state="hold"} 0`,
			`stsrelay_queue_bytes 4096`, `stsrelay_queue_oldest_message_age_seconds 7.5`, `stsrelay_queue_destinations_failing 1`},
		"counters": {`stsrelay_delivery_recipients_total{result="sent"} 5`, `stsrelay_delivery_recipients_total{result="bounced"} 0`, `stsrelay_smtpd_messages_total{result="accepted"} 6`},
		"policies": {`stsrelay_policy_cache_entries{mode="enforce"} 3`, `stsrelay_policy_cache_entries{mode="none"} 0`},
		"DANE-2.1.1-01 a resolver that does not validate is seen in the metrics": {`stsrelay_dnssec_validating 0`, `stsrelay_dane_enabled 1`, `stsrelay_dane_hosts_remembered 4`},
		"X-12 overrides are seen in the metrics":                                 {`stsrelay_overrides 2`},
		"the rest":                                                               {`stsrelay_healthy 1`, `stsrelay_warnings 1`, `stsrelay_tlsrpt_last_run_timestamp_seconds 1.7e+09`, `go_goroutines `},
	} {
		t.Run(name, func(t *testing.T) {
			for _, line := range lines {
				if !strings.Contains(body, "\n"+line) {
					t.Errorf("there is no %s in\n%s", line, body)
				}
			}
		})
	}
	t.Run("no domain is a label", func(t *testing.T) {
		if strings.Contains(body, "secret.example") {
			t.Error(body)
		}
	})
}
