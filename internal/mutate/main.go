// Mutate shows whether the tests of a package would notice if a condition were
// wrong. It changes each condition of the files once, builds the tests with
// that change (go test -c -overlay: no file of the repository is touched) and
// runs them. A mutant that no test turns red has survived. Either a test is
// missing, or it is the same program written otherwise: such mutants are listed
// in equivalent.txt, each with the reason.
//
//	go run ./internal/mutate -pkg ./delivery decide.go judge.go results.go
package main

import (
	_ "embed"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed equivalent.txt
var equivalentList string

func main() {
	pkg := flag.String("pkg", "./delivery", "directory of the package")
	run := flag.String("run", "Decide|Judge|NoDowngrade|Exhaustive|Result|Policy|Words", "the tests that should notice")
	flag.Parse()
	faults, err := mutate(*pkg, *run, flag.Args())
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(2)
	case faults > 0:
		os.Exit(1)
	}
}

// mutate tries all mutants of the files, says what survived, and counts what is
// not as it should be.
func mutate(pkg, run string, files []string) (faults int, err error) {
	mutants, err := collect(pkg, files)
	if err != nil {
		return 0, err
	}
	listed, err := equivalents(equivalentList)
	if err != nil {
		return 0, err
	}
	faults = unknown(listed, mutants, files)
	results, err := tryAll(trial{pkg: pkg, run: run}, mutants)
	if err != nil {
		return 0, err
	}
	count := map[fate]int{}
	for i, m := range mutants {
		f := results[i]
		switch reason, known := listed[m.key]; {
		case f == survived && known:
			f = equivalent
		case f == survived:
			fmt.Printf("%s:%d: survived: %s\n", filepath.Join(pkg, m.file), m.line, m.key)
			faults++
		case known:
			fmt.Printf("equivalent.txt: %s: it does not survive, whatever is said there (%s)\n", m.key, reason)
			faults++
		}
		count[f]++
	}
	fmt.Printf("%s: %d mutants, %d killed, %d survived, %d equivalent, %d did not compile\n", strings.Join(files, " "),
		len(mutants), count[killed], count[survived], count[equivalent], count[broken])
	return faults, nil
}

// collect reads the files and makes the mutants.
func collect(pkg string, files []string) (all []mutant, err error) {
	for _, name := range files {
		source, err := os.ReadFile(filepath.Join(pkg, name))
		if err != nil {
			return nil, err
		}
		m, err := mutants(name, string(source))
		if err != nil {
			return nil, err
		}
		all = append(all, m...)
	}
	return all, nil
}

// equivalents reads the list: lines with a mutant's key, each followed by
// indented lines that say why no test can tell it from the original.
func equivalents(list string) (map[string]string, error) {
	reasons, key := map[string]string{}, ""
	for line := range strings.Lines(list) {
		text := strings.TrimSpace(line)
		switch {
		case text == "", strings.HasPrefix(text, "#"):
		case line[0] != ' ' && line[0] != '\t':
			key = text
			reasons[key] = ""
		default:
			reasons[key] = strings.TrimSpace(reasons[key] + " " + text)
		}
	}
	for key, reason := range reasons {
		if key == "" || reason == "" {
			return nil, fmt.Errorf("equivalent.txt: %q: a mutant and a reason belong together", key+reason)
		}
	}
	return reasons, nil
}

// unknown counts what is listed for the files and is no mutant of them any more.
func unknown(listed map[string]string, mutants []mutant, files []string) (n int) {
	known := map[string]bool{}
	for _, m := range mutants {
		known[m.key] = true
	}
	for key := range listed {
		file, _, _ := strings.Cut(key, " ")
		for _, name := range files {
			if file == name && !known[key] {
				fmt.Printf("equivalent.txt: no such mutant: %s\n", key)
				n++
			}
		}
	}
	return n
}
