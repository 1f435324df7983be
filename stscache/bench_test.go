package stscache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"stsrelay/internal/addr"
	"stsrelay/internal/lab"
	"stsrelay/internal/resolver"
	"stsrelay/stscache"
)

// BenchmarkLookup has policies in the store, and DNS answers in the resolver's
// cache. More domains than memory holds are read from the store each time.
func BenchmarkLookup(b *testing.B) {
	b.Run("one domain", func(b *testing.B) { benchmarkLookup(b, 1, nil) })
	b.Run("10,000 domains", func(b *testing.B) { benchmarkLookup(b, 10_000, nil) })
	b.Run("40,000 domains, none in memory", func(b *testing.B) {
		benchmarkLookup(b, 40_000, func(o *stscache.Options) { o.Resolver = oneRecord{o.Resolver} })
	})
}

func benchmarkLookup(b *testing.B, domains int, change func(*stscache.Options)) {
	w := newWorld(b, nil)
	list := make([]addr.Domain, domains)
	for i := range list {
		list[i] = addr.MustDomain(fmt.Sprintf("d%d.test", i))
		e := stscache.Entry{Domain: list[i], Body: []byte(lab.PolicyText("enforce", 0, "mx.example.test")), ID: "1", Fetched: time.Now(), Used: time.Now()}
		if err := w.bolt.PutPolicy(b.Context(), e); err != nil {
			b.Fatal(err)
		}
		if change == nil {
			w.net.DNS.SetTXT("_mta-sts."+list[i].String(), "v=STSv1; id=1")
		}
	}
	if change != nil {
		change(&w.o)
		w.Cache = stscache.New(w.o)
	}
	for _, d := range list {
		if s := w.Lookup(b.Context(), d); s.Policy == nil || s.Err != nil {
			b.Fatalf("%+v", s)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		w.Lookup(b.Context(), list[i%domains])
	}
}

// oneRecord has the same TXT record for every name.
type oneRecord struct{ stscache.Resolver }

func (oneRecord) TXT(context.Context, string) (resolver.Answer[string], error) {
	return resolver.Answer[string]{Records: []string{"v=STSv1; id=1"}}, nil
}

func BenchmarkParsePolicy(b *testing.B) {
	body := []byte(lab.PolicyText("enforce", 0, "mx1.example.test", "mx2.example.test", "*.backup.example.test"))
	b.ReportAllocs()
	for range b.N {
		if _, _, err := stscache.ParsePolicy(body); err != nil {
			b.Fatal(err)
		}
	}
}
