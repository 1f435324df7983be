package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"os"
	"time"

	"stsrelay/tlsrpt"
)

//go:embed report.html
var reportHTML string

var reportPage = template.Must(template.New("report").Funcs(template.FuncMap{
	"total": func(s tlsrpt.Summary) int64 { return s.Successes + s.Failures },
	"share": share, "meaning": causeMeaning, "step": causeStep,
}).Parse(reportHTML))

// A pageBar is one day in the chart, in pixels.
type pageBar struct {
	tlsrpt.Bucket
	X, Width, GoodY, Good, BadY, Bad float64
	Label                            bool
}

// The size of the chart, in pixels.
const (
	pageWidth  = 920.0
	pageHeight = 220.0
)

// pageBars draws the days side by side, failures on top.
func pageBars(days []tlsrpt.Bucket) (bars []pageBar) {
	var most int64 = 1
	for _, d := range days {
		most = max(most, d.Successes+d.Failures)
	}
	step := pageWidth / float64(max(len(days), 1))
	for i, d := range days {
		good := pageHeight * float64(d.Successes) / float64(most)
		bad := pageHeight * float64(d.Failures) / float64(most)
		if d.Failures > 0 {
			bad = max(bad, 3) // a failure is seen, however rare
		}
		bars = append(bars, pageBar{Bucket: d, X: float64(i) * step, Width: min(step*0.8, 60), Good: good, GoodY: pageHeight - good, Bad: bad, BadY: max(0, pageHeight-good-bad),
			Label: i%max(1, len(days)/12) == 0})
	}
	return bars
}

// writeReportPage writes a page that needs no other file and no network.
func writeReportPage(path string, d *tlsrpt.Digest) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	days := d.Days()
	most := int64(0)
	for _, r := range d.Results() {
		most = max(most, r.Failures)
	}
	err = reportPage.Execute(f, map[string]any{
		"Digest": d, "Bars": pageBars(days), "From": days[0].Key, "To": days[len(days)-1].Key, "Width": pageWidth, "Height": pageHeight, "Axis": pageHeight + 24,
		"Most": most, "Made": time.Now().UTC().Format("2006-01-02 15:04 MST"), "Senders": len(d.Senders()),
		"Percent": func(n int64) float64 { return 100 * float64(n) / float64(max(most, 1)) },
	})
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
