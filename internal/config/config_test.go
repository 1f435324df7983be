package config

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the .want files")

const example = "../../config.toml.example"

func TestExampleIsTheDefault(t *testing.T) {
	got, err := Load(example)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Parse("minimal", []byte("hostname = \"relay.example.com\"\n[[listener]]\nname = \"postfix\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the example differs from the defaults: %+v, want %+v", got, want)
	}
}

// Every commented-out key shows its default: with all comments opened the
// configuration is still the default one.
func TestExampleShowsEveryDefault(t *testing.T) {
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(data), "# [[dkim]]") // no default: there is no key by default
	_, admin, _ := strings.Cut(string(data), "[admin]")
	text += "[admin]" + admin
	opened := regexp.MustCompile(`(?m)^# ([a-z_]+ = )`).ReplaceAllString(text, "$1")
	want, err := Parse("minimal", []byte("hostname = \"relay.example.com\"\n[[listener]]\nname = \"postfix\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	opened = strings.Replace(opened, "/var/lib/stsrelay", want.DataDir, 1) // differs for users other than root
	opened = strings.Replace(opened, "/run/stsrelay/admin.sock", want.Admin.Socket, 1)
	got, err := Parse("opened", []byte(opened))
	if err != nil {
		t.Fatal(err)
	}
	normalize(&got)
	normalize(&want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("an opened comment is not the default:\ngot  %+v\nwant %+v", got, want)
	}
	for key := range keysOf(reflect.TypeFor[Config](), "") {
		name := key[strings.LastIndexByte(key, '.')+1:]
		if !strings.Contains(string(data), name+" = ") {
			t.Errorf("the example does not show %s", key)
		}
	}
}

// normalize makes empty and nil lists alike.
func normalize(c *Config) {
	if len(c.Network.AllowPrivate) == 0 {
		c.Network.AllowPrivate = nil
	}
	if len(c.DNS.Servers) == 0 {
		c.DNS.Servers = nil
	}
	if len(c.Delivery.Bind) == 0 {
		c.Delivery.Bind = nil
	}
	if r := &c.TLSRPT; len(r.Suppress)+len(r.Replace)+len(r.BCC) == 0 {
		r.Suppress, r.Replace, r.BCC = nil, nil, nil
	}
}

func keysOf(t reflect.Type, prefix string) map[string]bool {
	keys := map[string]bool{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("toml")
		ft := f.Type
		if ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct && ft.PkgPath() == reflect.TypeFor[Config]().PkgPath() && ft.Name() != "BounceVia" {
			for k := range keysOf(ft, prefix+tag+".") {
				keys[k] = true
			}
			continue
		}
		keys[prefix+tag] = true
	}
	return keys
}

// Each file in testdata/bad begins with a comment that says why it exists; the
// .want beside it is what the operator reads.
func TestBadFilesAreExplained(t *testing.T) {
	files, _ := filepath.Glob("testdata/bad/*.toml")
	if len(files) < 8 {
		t.Fatalf("only %d files in testdata/bad", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(filepath.Base(file), data)
			if err == nil {
				t.Fatal("accepted")
			}
			want := strings.TrimSuffix(file, ".toml") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err2 := os.ReadFile(want)
			if err2 != nil {
				t.Fatal(err2)
			}
			if diff := cmp.Diff(string(text), err.Error()+"\n"); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAbsentListenerKeysHaveDefaults(t *testing.T) {
	c, err := Parse("x", []byte("hostname = \"relay.example.com\"\n[[listener]]\naddress = \"127.0.0.1:25\"\nallow_from = []\n[[listener]]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if l := c.Listeners[0]; len(l.AllowFrom) != 0 || l.MaxMessageSize != 50<<20 || l.Mode != "queue" || l.Name != "127.0.0.1:25" {
		t.Errorf("first listener: %+v", l)
	}
	if l := c.Listeners[1]; l.Address != "127.0.0.1:2525" || len(l.AllowFrom) != 2 {
		t.Errorf("second listener: %+v", l)
	}
}

func TestDurationsTakeDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"5d": 5 * 24 * time.Hour, "1d12h": 36 * time.Hour, "0.5d": 12 * time.Hour, "90s": 90 * time.Second, "0s": 0,
	} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.Duration != want {
			t.Errorf("%q is %v (%v), want %v", text, d.Duration, err, want)
		}
		var again Duration
		if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d {
			t.Errorf("%q prints as %q, which reads as %v (%v)", text, d, again, err)
		}
	}
	for _, bad := range []string{"", "5", "-1h", "1d-1h", "NaNd", "infd", "d", "5 d", "40000d", "2562047h47m16.854775807s1d"} {
		var d Duration
		if err := d.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is accepted as %v", bad, d)
		}
	}
}

func TestSizesTakeBinaryUnits(t *testing.T) {
	for text, want := range map[string]Size{"50MiB": 50 << 20, "256KiB": 256 << 10, "1GiB": 1 << 30, "1000": 1000} {
		var z Size
		if err := z.UnmarshalText([]byte(text)); err != nil || z != want || z.String() != text {
			t.Errorf("%q is %d, prints %q (%v)", text, z, z, err)
		}
	}
	for _, bad := range []string{"", "50MB", "-1", "9223372036854775807KiB", "1.5MiB"} {
		var z Size
		if err := z.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is accepted as %d", bad, z)
		}
	}
}

func FuzzParse(f *testing.F) {
	data, err := os.ReadFile(example)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	bad, _ := filepath.Glob("testdata/bad/*.toml")
	for _, file := range bad {
		data, _ := os.ReadFile(file)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("fuzz", data)
		if err == nil {
			if c.Hostname.IsZero() || len(c.Listeners) == 0 || len(c.Queue.Retry) == 0 {
				t.Errorf("accepted without what it needs: %+v", c)
			}
			return
		}
		lines := strings.Count(string(data), "\n") + 1
		for _, p := range err.(*Problems).List {
			if p.Line > lines || p.Text == "" {
				t.Errorf("problem outside the file, or without words: %+v", p)
			}
		}
	})
}
