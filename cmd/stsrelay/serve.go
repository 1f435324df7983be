package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"stsrelay/internal/app"
	"stsrelay/internal/config"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

func newServe(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the relay in the foreground", Args: cobra.NoArgs,
		Long: `Run the relay in the foreground. Logs go to stderr, one JSON object per line.
SIGTERM stops it: running deliveries may finish, everything else stays queued.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, path, err := g.loadWhole()
			if err != nil {
				return err
			}
			log := app.Logger(cfg.Log, cmd.ErrOrStderr())
			defer onHangup(path, log)()
			err = app.Run(cmd.Context(), cfg, app.Options{
				Version: versionText(), ConfigPath: path, Log: log,
				Ready:    func(app.Info) { notify(daemon.SdNotifyReady, log) },
				Stopping: func() { notify(daemon.SdNotifyStopping, log) },
			})
			if err != nil {
				return exitError{exitBad, err}
			}
			return nil
		},
	}
}

func notify(state string, log zerolog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn().Err(err).Msg("systemd could not be notified")
	}
}

// onHangup keeps SIGHUP from ending the daemon until the returned function is
// called. The file is checked, so that its problems are told now and not at the
// next start.
func onHangup(path string, log zerolog.Logger) (end func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
				checkAgain(path, log)
			}
		}
	}()
	return func() {
		signal.Stop(hup)
		cancel()
		<-ended
	}
}

func checkAgain(path string, log zerolog.Logger) {
	if _, err := config.Load(path); err != nil {
		log.Error().Err(err).Msg("SIGHUP: the configuration file has problems; the running configuration stays in force")
		return
	}
	log.Warn().Str("config", path).Msg("SIGHUP: this version reads its configuration at start only; the file is good, restart to apply it")
}
