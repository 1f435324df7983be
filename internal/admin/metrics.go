package admin

import (
	"context"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// statusMetrics turns the Status into metrics at each scrape. Labels have fixed
// sets of values, never domains, and gauges are there at 0 too.
type statusMetrics struct {
	status func(context.Context) Status
}

// A metric is one family made of the Status.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(s Status, add func(v float64, labels ...string))
}

func family(name, help string, kind prometheus.ValueType, labels []string, value func(s Status, add func(float64, ...string))) metric {
	return metric{prometheus.NewDesc("stsrelay_"+name, help, labels, nil), kind, value}
}

func gauge(name, help string, value func(s Status) float64) metric {
	return family(name, help, prometheus.GaugeValue, nil, func(s Status, add func(float64, ...string)) { add(value(s)) })
}

// each adds one value for each label value in a fixed set.
func each[N int | uint64](of map[string]N, add func(float64, ...string), labels ...string) {
	for _, l := range labels {
		add(float64(of[l]), l)
	}
}

var metrics = []metric{
	family("build_info", "Version of the program; the value is 1.", prometheus.GaugeValue, []string{"version", "go_version"},
		func(s Status, add func(float64, ...string)) { add(1, s.Version, runtime.Version()) }),
	gauge("healthy", "1 while mail is accepted.", func(s Status) float64 { return number(s.Healthy) }),
	family("queue_messages", "Messages in the queue, one for each destination of a message.", prometheus.GaugeValue, []string{"state"},
		func(s Status, add func(float64, ...string)) {
			each(map[string]int{"active": s.Queue.Active, "deferred": s.Queue.Deferred, "hold": s.Queue.Held}, add, "active", "deferred", "hold")
		}),
	gauge("queue_bytes", "Octets of the content in the queue.", func(s Status) float64 { return float64(s.Queue.Bytes) }),
	gauge("queue_oldest_message_age_seconds", "Age of the oldest message in the queue, 0 without any.", func(s Status) float64 { return s.Queue.OldestSeconds }),
	gauge("queue_destinations_failing", "Destinations that back off after a failure.", func(s Status) float64 { return float64(len(s.Destinations)) }),
	family("smtpd_messages_total", "What clients heard.", prometheus.CounterValue, []string{"result"},
		func(s Status, add func(float64, ...string)) { each(s.Counters, add, "accepted", "refused") }),
	family("delivery_recipients_total", "What became of recipients at each attempt.", prometheus.CounterValue, []string{"result"},
		func(s Status, add func(float64, ...string)) { each(s.Counters, add, "sent", "deferred", "bounced") }),
	family("possible_duplicates_total", "Recipients whose server vanished after the final dot.", prometheus.CounterValue, nil,
		func(s Status, add func(float64, ...string)) { add(float64(s.Counters["possible_duplicates"])) }),
	family("policy_cache_entries", "MTA-STS policies in force.", prometheus.GaugeValue, []string{"mode"},
		func(s Status, add func(float64, ...string)) { each(s.Policies, add, "enforce", "testing", "none") }),
	gauge("dnssec_validating", "1 while the DNS self-test passes: answers are validated.", func(s Status) float64 { return number(s.DNSSEC.Validating) }),
	gauge("dane_enabled", "1 while DANE is on.", func(s Status) float64 { return number(s.DNSSEC.DANE) }),
	gauge("dane_hosts_remembered", "MX hosts that had signed TLSA records within 30 days.", func(s Status) float64 { return float64(s.DNSSEC.TLSAHosts) }),
	gauge("overrides", "Domains for which the operator lifts MTA-STS or DANE now.", func(s Status) float64 { return float64(s.Overrides) }),
	gauge("warnings", "Warnings that `stsrelay status` shows.", func(s Status) float64 { return float64(len(s.Warnings)) }),
	gauge("tlsrpt_last_run_timestamp_seconds", "When TLS reports were last made, 0 for never.", func(s Status) float64 { return unix(s.Reports.LastRun) }),
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}

// Describe implements prometheus.Collector.
func (m statusMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, x := range metrics {
		ch <- x.desc
	}
}

// Collect implements prometheus.Collector.
func (m statusMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.status(context.Background())
	for _, x := range metrics {
		x.value(s, func(v float64, labels ...string) { ch <- prometheus.MustNewConstMetric(x.desc, x.kind, v, labels...) })
	}
}

// metricsHandler serves the metrics of the relay and of its process.
func metricsHandler(status func(context.Context) Status) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(statusMetrics{status}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}
