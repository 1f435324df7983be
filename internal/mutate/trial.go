package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// A fate is what became of a mutant.
type fate int

const (
	killed     fate = iota // a test turned red
	survived               // all tests are green
	equivalent             // so they are, and the list says why
	broken                 // it does not compile
)

// At most two at a time, and none for ever.
const (
	workers      = 2
	buildTimeout = 5 * time.Minute
	testTimeout  = time.Minute
)

// A trial is how a mutant is tried.
type trial struct {
	pkg string // directory of the package
	run string // the tests that should notice
	dir string // where each worker writes
}

// tryAll tries the mutants, after the original: tests that are red to begin
// with show nothing.
func tryAll(t trial, mutants []mutant) ([]fate, error) {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	t.dir = dir
	f, out, err := t.try(mutant{})
	if err != nil {
		return nil, err
	}
	if f != survived {
		return nil, fmt.Errorf("the tests are not green without any change:\n%s", out)
	}
	var (
		fates = make([]fate, len(mutants))
		errs  = make([]error, len(mutants))
		slots = make(chan struct{}, workers)
		wg    sync.WaitGroup
	)
	for i, m := range mutants {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			t := t
			t.dir = filepath.Join(dir, fmt.Sprint(i))
			fates[i], _, errs[i] = t.try(m)
			errs[i] = errors.Join(errs[i], os.RemoveAll(t.dir))
		})
	}
	wg.Wait()
	return fates, errors.Join(errs...)
}

// try builds the tests with one mutant and runs them. It returns what they said.
func (t trial) try(m mutant) (fate, []byte, error) {
	overlay, err := t.overlay(m)
	if err != nil {
		return 0, nil, err
	}
	binary := filepath.Join(t.dir, "mutant.test")
	out, err := command(buildTimeout, "", "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", binary, t.pkg)
	if err != nil {
		return broken, out, exited(err)
	}
	out, err = command(2*testTimeout, t.pkg, binary, "-test.run", t.run, "-test.failfast", "-test.timeout", testTimeout.String())
	if err != nil {
		return killed, out, exited(err)
	}
	return survived, out, nil
}

// exited is nil if a program ran and said no, and the error if it did not run.
func exited(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

func command(timeout time.Duration, dir, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	return c.CombinedOutput()
}

// overlay writes the mutant, and the file that tells the go command to read it
// instead of the original. Without a mutant nothing is replaced.
func (t trial) overlay(m mutant) (string, error) {
	replace := map[string]string{}
	if m.file != "" {
		original, err := filepath.Abs(filepath.Join(t.pkg, m.file))
		if err != nil {
			return "", err
		}
		replace[original] = filepath.Join(t.dir, m.file)
	}
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return "", err
	}
	for _, name := range replace {
		if err := os.WriteFile(name, []byte(m.source), 0o600); err != nil {
			return "", err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(t.dir, "overlay.json")
	return name, os.WriteFile(name, list, 0o600)
}
