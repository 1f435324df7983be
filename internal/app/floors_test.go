package app

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// floors is the house: a package may import what stands on a lower floor,
// never beside it or above it. Packages not listed here do not exist.
var floors = map[string]int{
	"cmd/stsrelay":       6,
	"internal/app":       5,
	"internal/boltstore": 4,
	"internal/admin":     4,
	"relay":              3,
	"internal/check":     3,
	"delivery":           2,
	"stscache":           1,
	"tlsrpt":             1,
	"internal/addr":      0,
	"internal/resolver":  0,
	"internal/network":   0,
	"internal/config":    0,
	"docs":               0,
}

// foundation may be imported beside each other: names and dialing serve DNS
// and the file.
var foundation = []string{"internal/addr", "internal/network"}

// aside stand outside the floors: the lab imports no room, the store suite and
// the validating resolver are imported by tests only.
var aside = []string{"internal/lab", "internal/storetest", "internal/unboundtest", "internal/mutate"}

// owners says who alone may touch a third-party library.
var owners = map[string][]string{
	"golang.org/x/net/idna":               {"internal/addr"},
	"github.com/miekg/dns":                {"internal/resolver", "internal/lab", "internal/unboundtest"},
	"github.com/pelletier/go-toml":        {"internal/config"},
	"github.com/emersion/go-message":      {"tlsrpt", "relay"},
	"github.com/emersion/go-msgauth":      {"tlsrpt", "relay"},
	"github.com/emersion/go-smtp":         {"relay"},
	"go.etcd.io/bbolt":                    {"internal/boltstore"},
	"github.com/spf13/cobra":              {"cmd/stsrelay"},
	"github.com/jedib0t/go-pretty":        {"cmd/stsrelay"},
	"github.com/coreos/go-systemd":        {"cmd/stsrelay"},
	"github.com/hashicorp/golang-lru":     {"internal/resolver", "stscache", "delivery"},
	"github.com/google/go-cmp":            {},
	"github.com/rogpeppe/go-internal":     {},
	"go.uber.org/goleak":                  {},
	"github.com/prometheus/client_golang": {"internal/admin"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestImportsGoDownOnly(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, "stsrelay/")
		floor, known := floors[name]
		outside := slices.Contains(aside, name)
		if !known && !outside {
			t.Errorf("%s has no place in the house: give it a floor here and in docs/architecture.md", name)
		}
		for _, path := range p.Imports {
			if dep, own := strings.CutPrefix(path, "stsrelay/"); own {
				if why := mayNot(name, floor, outside, dep); why != "" {
					t.Errorf("%s imports %s: %s", name, dep, why)
				}
				continue
			}
			for lib, who := range owners {
				if strings.HasPrefix(path, lib) && !slices.Contains(who, name) {
					t.Errorf("%s imports %s: only %v may", name, path, who)
				}
			}
		}
	}
}

func mayNot(name string, floor int, outside bool, dep string) string {
	switch {
	case name == "internal/lab":
		return "the lab knows no room"
	case dep == "internal/storetest":
		return "only tests may"
	case dep == "internal/lab":
		if name != "cmd/stsrelay" {
			return "only cmd and tests may"
		}
	case outside, floors[dep] < floor:
	case floor == 0 && slices.Contains(foundation, dep):
	default:
		return "it stands on the same floor or above"
	}
	return ""
}

func listPackages(t *testing.T) (list []pkg) {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "stsrelay/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < len(floors) {
		t.Fatalf("go list shows %d packages, the house has %d", len(list), len(floors))
	}
	return list
}
