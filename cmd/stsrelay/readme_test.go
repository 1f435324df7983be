package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"stsrelay/internal/config"
)

// A shown is a command in the README, with what it is shown to print.
type shown struct {
	command string
	prints  []string
}

// readme returns the commands of the console blocks, the text blocks and the
// toml blocks.
func readme(t *testing.T) (commands []shown, texts, files []string) {
	t.Helper()
	data, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	kind, text := "", ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if fence, ok := strings.CutPrefix(line, "```"); ok {
			switch kind {
			case "text":
				texts = append(texts, text)
			case "toml":
				files = append(files, text)
			}
			kind, text = fence, ""
			continue
		}
		switch kind {
		case "text", "toml":
			text += line + "\n"
		case "console":
			if strings.HasPrefix(line, "$ ") || strings.HasPrefix(line, "# ") { // a user's prompt, or root's
				command, _, _ := strings.Cut(line[2:], "  #")
				commands = append(commands, shown{command: strings.TrimSpace(command)})
				continue
			}
			last := &commands[len(commands)-1]
			last.prints = append(last.prints, line)
		}
	}
	if len(commands) < 10 || len(texts) == 0 || len(files) == 0 {
		t.Fatalf("only %d commands, %d texts and %d files were found", len(commands), len(texts), len(files))
	}
	return commands, texts, files
}

// took is what differs from run to run.
var took = regexp.MustCompile(`in [0-9.]+ s$`)

func TestReadmeShowsWhatCommandsPrint(t *testing.T) {
	t.Setenv("LANG", "C.UTF-8")
	t.Setenv("LC_ALL", "")
	commands, _, _ := readme(t)
	ran := 0
	for _, c := range commands {
		if len(c.prints) == 0 {
			continue
		}
		t.Run(c.command, func(t *testing.T) {
			var out bytes.Buffer
			if code := run(context.Background(), arguments(t, c.command), &out, io.Discard); code != 0 {
				t.Fatalf("it ended with %d:\n%s", code, &out)
			}
			rest := strings.Split(took.ReplaceAllString(strings.TrimRight(out.String(), "\n"), "in N s"), "\n")
			gap := true
			for _, want := range c.prints {
				want = took.ReplaceAllString(want, "in N s")
				if want == "..." {
					gap = true
					continue
				}
				at := indexOf(rest, want)
				if at < 0 || at > 0 && !gap {
					t.Fatalf("the README has this line, the output has not, or not there: %q", want)
				}
				rest, gap = rest[at+1:], false
			}
			if len(rest) > 0 && !gap {
				t.Errorf("the README leaves the rest out without a word: %q", rest)
			}
		})
		ran++
	}
	if ran < 2 {
		t.Errorf("%d commands were run", ran)
	}
}

func indexOf(list []string, s string) int {
	for i, x := range list {
		if strings.TrimRight(x, " ") == s {
			return i
		}
	}
	return -1
}

// arguments of a command line of ours, nil if it is somebody else's.
func arguments(t *testing.T, command string) []string {
	t.Helper()
	for _, prefix := range []string{"go run ./cmd/stsrelay ", "stsrelay "} {
		if rest, ok := strings.CutPrefix(command, prefix); ok {
			return strings.Fields(rest)
		}
	}
	return nil
}

func TestReadmeNamesCommandsThatExist(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	commands, _, _ := readme(t)
	for _, c := range commands {
		if target, ok := strings.CutPrefix(c.command, "make "); ok {
			if !strings.Contains(string(makefile), "\n"+target+":") {
				t.Errorf("make has no %s", target)
			}
			continue
		}
		args := arguments(t, c.command)
		if args == nil {
			continue
		}
		cmd, rest, err := newRoot(&globals{}, io.Discard, io.Discard).Find(args)
		if err == nil {
			err = cmd.ParseFlags(rest)
		}
		if err == nil {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil || !cmd.Runnable() || cmd.HasSubCommands() {
			t.Errorf("%s: %v", c.command, err)
		}
	}
}

// What the README quotes of notices stands in one that the relay writes.
func TestReadmeQuotesRealNotices(t *testing.T) {
	notice, err := os.ReadFile("../../relay/testdata/dsn/03-mx-not-listed-delayed.eml")
	if err != nil {
		t.Fatal(err)
	}
	_, texts, _ := readme(t)
	for _, text := range texts {
		if !strings.Contains(strings.ReplaceAll(string(notice), "\r\n", "\n"), text) {
			t.Errorf("no notice says this:\n%s", text)
		}
	}
}

// What the README writes into configuration files is good there.
func TestReadmeConfiguresWhatThereIs(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, []byte("not read here"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, files := readme(t)
	for _, file := range files {
		file = strings.ReplaceAll(file, "/etc/stsrelay/dkim/s1.pem", key)
		if !strings.Contains(file, "hostname = ") {
			file = "hostname = \"relay.example.com\"\n" + file
		}
		if _, err := config.Parse("README.md", []byte(file)); err != nil {
			t.Errorf("%v\n%s", err, file)
		}
	}
}
