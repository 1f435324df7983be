// Command stsrelay is an outbound SMTP relay that enforces what the recipient
// domain demands of TLS (MTA-STS, RFC 8461), and tells why when it refuses.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run(interruptible(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program but the process.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return runWith(ctx, &globals{}, args, stdout, stderr)
}

func runWith(ctx context.Context, g *globals, args []string, stdout, stderr io.Writer) int {
	root := newRoot(g, stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code, err := exitOf(ctx, err, g.started)
	tell(stderr, err)
	return code
}

// interruptible returns a context that ends at SIGINT and SIGTERM, with an
// interrupted as its cause. A second signal ends the process as usual.
func interruptible() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		s := <-signals
		signal.Stop(signals)
		cancel(interrupted{s.(syscall.Signal)})
	}()
	return ctx
}
