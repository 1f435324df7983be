package main

import (
	"strings"
	"testing"
	"time"

	"stsrelay/internal/admin"
)

// listed is entries for a list.
func listed(list ...admin.QueueEntry) entries {
	return func(yield func(admin.QueueEntry, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func queued(id, message, dest string, size int64, old time.Duration) admin.QueueEntry {
	return admin.QueueEntry{QueueName: "deferred", QueueID: id, MessageID: message, Destination: dest, MessageSize: size,
		ArrivalTime: time.Now().Add(-old).Unix(), NextAttempt: time.Now().Add(-time.Second), Recipients: []admin.Recipient{{Address: "x@" + dest}}}
}

func TestContentOfAMessageIsCountedOnce(t *testing.T) {
	var b strings.Builder
	err := listQueue(printer{w: &b}, listed(queued("1A-1", "1A", "a.example", 10<<10, time.Hour), queued("1A-2", "1A", "b.example", 10<<10, time.Hour),
		queued("1B", "1B", "a.example", 5<<10, 26*time.Hour+time.Minute)))
	if err != nil || !strings.Contains(b.String(), "\n3 messages, 15K, oldest 1d2h.") {
		t.Errorf("%v: %s", err, b.String())
	}
}

func TestALongListIsWrittenPageByPage(t *testing.T) {
	var list []admin.QueueEntry
	for range 2*pageRows + 1 {
		list = append(list, queued("1A", "1A", "a.example", 1, 0))
	}
	var b strings.Builder
	if err := listQueue(printer{w: &b}, listed(list...)); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "WAITING BECAUSE"); n != 3 || strings.Count(b.String(), "x@a.example") != len(list) {
		t.Errorf("there are %d pages with %d rows", n, strings.Count(b.String(), "x@a.example"))
	}
}

func TestAgesByDomain(t *testing.T) {
	held := queued("1F", "1F", "b.example", 1, 0)
	held.QueueName = "hold"
	var b strings.Builder
	err := listByDomain(printer{w: &b}, false, listed(
		queued("1A", "1A", "a.example", 1, 5*time.Minute-10*time.Second), queued("1B", "1B", "a.example", 1, 5*time.Minute+time.Second),
		queued("1C", "1C", "a.example", 1, 2*time.Hour), queued("1D", "1D", "a.example", 1, 30*time.Hour), queued("1E", "1E", "a.example", 1, 90*time.Hour), held))
	lines := strings.Split(b.String(), "\n")
	if err != nil || len(lines) < 3 || strings.Join(strings.Fields(lines[1]), " ") != "a.example 5 1 1 0 1 0 2 0 due not tried yet" ||
		strings.Join(strings.Fields(lines[2]), " ") != "b.example 1 1 0 0 0 0 0 1 - not tried yet" {
		t.Errorf("%v:\n%s", err, b.String())
	}
}

func TestWhyMailWaits(t *testing.T) {
	for want, e := range map[string]admin.QueueEntry{
		"not tried yet":                         {QueueName: "deferred"},
		"held: ticket 4711":                     {QueueName: "hold", HoldReason: "ticket 4711", Reason: "dns-failed", Text: "x"},
		"held by the operator":                  {QueueName: "hold"},
		"is being returned to the sender":       {QueueName: "deferred", ForcedExpire: true, Reason: "dns-failed"},
		"450 4.2.0 greylisted":                  {QueueName: "deferred", Reason: "remote-reply", Text: "450 4.2.0 greylisted"},
		"mx-not-listed: policy refuses mx.test": {QueueName: "deferred", Reason: "mx-not-listed", Text: "policy refuses mx.test"},
	} {
		if got := because(e); got != want {
			t.Errorf("%+v waits because %q, not %q", e, got, want)
		}
	}
}
