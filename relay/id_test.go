package relay

import (
	"regexp"
	"slices"
	"testing"
	"time"
)

func TestNewID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{18}$`)
	at := time.Date(2026, 11, 24, 10, 46, 57, 0, time.UTC)
	t.Run("an ID is short and printable", func(t *testing.T) {
		if id := NewID(); !form.MatchString(string(id)) {
			t.Errorf("%q", id)
		}
	})
	t.Run("IDs sort by time", func(t *testing.T) {
		var ids []ID
		for i := range 2000 {
			ids = append(ids, newID(at.Add(time.Duration(i*i)*time.Microsecond)))
		}
		if !slices.IsSorted(ids[1:]) || newID(at) >= newID(at.AddDate(400, 0, 0)) {
			t.Error("not sorted")
		}
	})
	t.Run("IDs of the same moment differ", func(t *testing.T) {
		seen := map[ID]bool{}
		for range 5000 {
			seen[newID(at)] = true
		}
		if len(seen) != 5000 {
			t.Errorf("%d of 5000 are different", len(seen))
		}
	})
}

func TestEntryID(t *testing.T) {
	if got := EntryID("M", 0, 1); got != "M" {
		t.Errorf("a lone entry is %q", got)
	}
	var ids []ID
	for i := range 12 {
		ids = append(ids, EntryID("M", i, 12))
	}
	if ids[0] != "M-01" || ids[11] != "M-12" || !slices.IsSorted(ids) {
		t.Errorf("%v", ids)
	}
}
