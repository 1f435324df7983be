package main

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"runtime"
	"runtime/debug"

	"stsrelay/internal/admin"
	"stsrelay/internal/app"
	"stsrelay/internal/config"
	"stsrelay/internal/network"

	"github.com/spf13/cobra"
)

// version is set by release builds with -ldflags "-X main.version=1.2.3".
var version = ""

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// globals are the flags that every command has.
type globals struct {
	configPath string
	color      string
	json       bool
	started    bool // flags and arguments were good

	dialer  network.Dialer // for tests; nil: the network
	roots   *x509.CertPool // nil: the system's
	private []netip.Prefix // networks that DNS may lead into
}

func newRoot(g *globals, stdout, stderr io.Writer) *cobra.Command {
	root := group("stsrelay", "Outbound SMTP relay that enforces MTA-STS and DANE and says why it refuses",
		newServe(g), newCheck(g), newExplain(g), newConfig(g), newQueue(g), newMailq(g), newCache(g), newPolicy(g), newReport(g), newSend(g), newTLSRPT(g), newStatus(g), newHealthcheck(g), newLab(g), newVersion(g))
	root.Long = root.Short + `.

See it work, with no configuration, network or rights: stsrelay lab run

Exit codes: 0 good; 1 what was looked at is bad, or it could not be done; 2 wrong
usage; 3 could not tell, such as when no daemon answers; 78 bad configuration.`
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetOut(stdout)
	root.SetErr(stderr)
	f := root.PersistentFlags()
	f.StringVar(&g.configPath, "config", "", "configuration `FILE` (default: $STSRELAY_CONFIG, /etc/stsrelay/config.toml, or the user's)")
	f.StringVar(&g.color, "color", "auto", "colour: auto, always, never")
	f.BoolVar(&g.json, "json", false, "machine-readable output (JSON, or JSON Lines for lists)")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if g.color != "auto" && g.color != "always" && g.color != "never" {
			return usagef("--color: %q is not one of auto, always, never", g.color)
		}
		g.started = true
		return nil
	}
	return root
}

// group is a command that only has others below it. By itself it shows its
// help; a word that is none of them is an error, which cobra would overlook.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := ""
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			hint = fmt.Sprintf("; did you mean %q?", like[0])
		}
		return usagef("%q is not a command of %s%s", args[0], cmd.CommandPath(), hint)
	}
	cmd.AddCommand(commands...)
	return cmd
}

func newVersion(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionText()
			if g.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"schema": "stsrelay.version/v1",
					"version": v, "go_version": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "stsrelay %s %s %s/%s\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// path is the configuration file that is meant.
func (g *globals) path() string {
	if g.configPath != "" {
		return g.configPath
	}
	return config.Path()
}

// load reads the configuration; what is wrong with it ends the program with
// exit code 78.
func (g *globals) load() (config.Config, string, error) {
	path := g.path()
	c, err := config.Load(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && g.configPath == "":
		err = fmt.Errorf("%w; name a file with --config or $STSRELAY_CONFIG", err)
		fallthrough
	case err != nil:
		return c, path, exitError{exitConfig, err}
	}
	return c, path, nil
}

// loadWhole is load for those who run or check what it says: keys are read too.
func (g *globals) loadWhole() (config.Config, string, error) {
	c, path, err := g.load()
	if err == nil {
		if fault := app.Check(c); fault != nil {
			err = exitError{exitConfig, fmt.Errorf("%s: %w", path, fault)}
		}
	}
	return c, path, err
}

// client is for commands that talk to the daemon.
func (g *globals) client() (*admin.Client, error) {
	c, _, err := g.load()
	if err != nil {
		return nil, err
	}
	return admin.NewClient(c.Admin.Socket), nil
}
