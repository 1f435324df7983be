package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"stsrelay/internal/admin"
	"stsrelay/internal/config"
)

// Exit codes, the same for all commands. An interrupted command ends with 128
// and the number of the signal.
const (
	exitBad     = 1  // the thing looked at is bad, or the command could not be done
	exitUsage   = 2  // wrong usage
	exitUnknown = 3  // could not tell: no daemon, no network
	exitConfig  = 78 // bad configuration (sysexits EX_CONFIG)
)

// An exitError ends the program with its code. A nil err has been told already.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e exitError) Unwrap() error { return e.err }

// orNil is the error, or nil for the code 0.
func (e exitError) orNil() error {
	if e.code == 0 {
		return nil
	}
	return e
}

// usagef is an error of the one who typed the command.
func usagef(format string, args ...any) error {
	return exitError{exitUsage, fmt.Errorf(format, args...)}
}

// An interrupted is the signal that ended a command.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string { return i.signal.String() }

// exitOf says with which code an error ends the program, and what to say. What
// goes wrong before a command has started is cobra's finding: wrong usage.
func exitOf(ctx context.Context, err error, started bool) (int, error) {
	var exit exitError
	switch {
	case errors.As(err, &exit):
		return exit.code, exit.err
	case ctx.Err() != nil:
		var by interrupted
		if !errors.As(context.Cause(ctx), &by) {
			by.signal = syscall.SIGINT
		}
		return 128 + int(by.signal), by
	case !started:
		return exitUsage, err
	case errors.Is(err, admin.ErrNoDaemon):
		return exitUnknown, err
	}
	return exitBad, err
}

// tell says what went wrong. The problems of a configuration file are lines of
// their own, as compilers write them.
func tell(w io.Writer, err error) {
	var problems *config.Problems
	switch {
	case err == nil:
	case errors.As(err, &problems):
		fmt.Fprintf(w, "%v\nstsrelay: %s in the configuration\n", problems, plural(len(problems.List), "problem"))
	default:
		fmt.Fprintf(w, "stsrelay: %v\n", err)
	}
}
