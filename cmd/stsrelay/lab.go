package main

import "github.com/spf13/cobra"

func newLab(g *globals) *cobra.Command { return group("lab", "A fake internet on this computer") }
