package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"stsrelay/internal/config"

	"github.com/spf13/cobra"
)

func newConfig(g *globals) *cobra.Command {
	return group("config", "Look at the configuration file",
		&cobra.Command{
			Use: "check", Short: "Check the configuration file and report every problem", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return checkConfig(cmd, g) },
		},
		&cobra.Command{
			Use: "show", Short: "Show every setting that is in force, defaults included", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, path, err := g.load()
				if err != nil {
					return err
				}
				if g.json {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"schema": "stsrelay.config/v1", "file": path, "config": settings(c)})
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "# %s, with the defaults of what it leaves out\n%s", path, tomlOf(settings(c)))
				return err
			},
		},
	)
}

// A configReport is `config check --json`.
type configReport struct {
	Schema   string          `json:"schema"`
	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Problems []configProblem `json:"problems"`
	Warnings []string        `json:"warnings"`
}

type configProblem struct {
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Key    string `json:"key,omitempty"`
	Text   string `json:"text"`
}

func checkConfig(cmd *cobra.Command, g *globals) error {
	cfg, path, err := g.loadWhole()
	if g.json {
		return errors.Join(json.NewEncoder(cmd.OutOrStdout()).Encode(reportOf(cfg, path, err)), silent(err))
	}
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s: ok\n", path)
	for _, l := range cfg.Listeners {
		networks := make([]string, len(l.AllowFrom))
		for i, p := range l.AllowFrom {
			networks[i] = p.String()
		}
		fmt.Fprintf(out, "  listener %s: %s on %s, relays for %s\n", l.Name, l.Protocol, l.Address, strings.Join(networks, ", "))
	}
	fmt.Fprintf(out, "  data in %s, admin socket %s\n", cfg.DataDir, cfg.Admin.Socket)
	for _, w := range cfg.Warnings() {
		fmt.Fprintf(out, "  warning: %s\n", w)
	}
	return nil
}

func reportOf(cfg config.Config, path string, err error) configReport {
	r := configReport{Schema: "stsrelay.config-check/v1", File: path, OK: err == nil, Problems: []configProblem{}, Warnings: []string{}}
	var problems *config.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems.List {
			r.Problems = append(r.Problems, configProblem(p))
		}
	case err != nil:
		r.Problems = append(r.Problems, configProblem{Text: err.Error()})
	default:
		r.Warnings = append(r.Warnings, cfg.Warnings()...)
	}
	return r
}

// silent keeps the exit code of an error that has been told.
func silent(err error) error {
	var exit exitError
	if errors.As(err, &exit) {
		return exitError{code: exit.code}
	}
	return err
}
