package boltstore

import (
	"bytes"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/storetest"
	"stsrelay/tlsrpt"

	bolt "go.etcd.io/bbolt"
)

func TestReports(t *testing.T) { storetest.TestReports(t, openHarness) }

// verifyReports compares reports with their index, their counts and their mail.
func verifyReports(t testing.TB, s *Store) {
	t.Helper()
	err := s.view(func(tx *bolt.Tx) error {
		waiting, mails := 0, 0
		reports := tx.Bucket(bReport)
		err := reports.ForEach(func(k, v []byte) error {
			r, err := decodeReport(v)
			if err != nil {
				return err
			}
			if w, ok := r.due(); ok {
				waiting++
				if tx.Bucket(bReportDue).Get(reportDueKey(w.At, k)) == nil {
					t.Errorf("report %q is not in the index", k)
				}
			}
			for _, p := range r.Parts {
				if p.State == tlsrpt.Queued {
					mails++
					if link := tx.Bucket(bReportMail).Get([]byte(p.Mail)); !bytes.Equal(link, append(append(bytes.Clone(k), 0), p.RUA...)) {
						t.Errorf("report %q: the link of mail %s is %q", k, p.Mail, link)
					}
					if tx.Bucket(bMessage).Get([]byte(p.Mail)) == nil {
						t.Errorf("report %q: mail %s is not in the queue", k, p.Mail)
					}
				}
			}
			return nil
		})
		if n := keys(tx.Bucket(bReportDue)); n != waiting {
			t.Errorf("%d keys in the index for %d reports that wait", n, waiting)
		}
		if n := keys(tx.Bucket(bReportMail)); n != mails {
			t.Errorf("%d links for %d mails", n, mails)
		}
		if err != nil {
			return err
		}
		return tx.Bucket(bReportCount).ForEach(func(k, _ []byte) error {
			if parts := bytes.SplitN(k, []byte{0}, 4); reports.Get(bytes.Join(parts[:3], []byte{0})) == nil {
				t.Errorf("counts %q of no report", k)
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReportsClockSetBack(t *testing.T) {
	w := &world{}
	s := openTest(t, t.TempDir(), testOptions, w)
	domain := addr.MustDomain("a.example")
	err := s.Add(t.Context(), []tlsrpt.Session{{Start: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Domain: domain, Policies: []tlsrpt.PolicyResult{{}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenReports(t.Context(), []tlsrpt.Opening{{Day: "2026-11-01", Domain: domain, ID: "x@y"}}); err != nil {
		t.Fatal(err)
	}
	jobs, _, err := s.ClaimReports(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	part := tlsrpt.Part{RUA: "https://x.example/", State: tlsrpt.Pending, Tries: 1, Due: time.Hour}
	if err := s.FinishReport(t.Context(), tlsrpt.Outcome{Ref: jobs[0].Ref, Lease: jobs[0].Lease, Parts: []tlsrpt.Part{part}}); err != nil {
		t.Fatal(err)
	}
	w.set(func() { w.step = -48 * time.Hour })
	if err := s.repairReports(); err != nil {
		t.Fatal(err)
	}
	w.set(func() { w.shift = time.Hour + time.Second })
	if jobs, _, err := s.ClaimReports(t.Context(), 1); err != nil || len(jobs) != 1 {
		t.Errorf("an hour later %d reports are due, %v", len(jobs), err)
	}
	verifyReports(t, s)
}

// TestOlderFile: a file without the buckets of reports is opened, also after a
// crash.
func TestOlderFile(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, testOptions, &world{})
	mustAccept(t, s, "1", "example.com")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(s.path(), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range added {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bMeta).Put(kState, []byte("open"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	mustClaim(t, openTest(t, dir, testOptions, &world{}), "example.com", 1)
}

// TestDamagedReport: one record that cannot be read does not hold up the others.
func TestDamagedReport(t *testing.T) {
	s := openTest(t, t.TempDir(), testOptions, &world{})
	var openings []tlsrpt.Opening
	for _, name := range []string{"a.example", "b.example"} {
		domain := addr.MustDomain(name)
		err := s.Add(t.Context(), []tlsrpt.Session{{Start: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Domain: domain, Policies: []tlsrpt.PolicyResult{{}}}})
		if err != nil {
			t.Fatal(err)
		}
		openings = append(openings, tlsrpt.Opening{Day: "2026-11-01", Domain: domain, ID: name + "@y"})
	}
	opened, err := s.OpenReports(t.Context(), openings)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bReport).Put(reportKey(opened[0].Ref), []byte("?")) }); err != nil {
		t.Fatal(err)
	}
	jobs, next, err := s.ClaimReports(t.Context(), 1)
	if err != nil || len(jobs) != 1 || jobs[0].ID != "b.example@y" || next != tlsrpt.Never {
		t.Errorf("%+v, %v, %v", jobs, next, err)
	}
}
