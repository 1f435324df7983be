package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"stsrelay/delivery"
	"stsrelay/internal/admin"
	"stsrelay/internal/app"
	"stsrelay/internal/config"
	"stsrelay/internal/lab"
	"stsrelay/internal/network"

	"github.com/rs/zerolog"
)

// labSender is the domain of those who send: bounces must arrive there. The
// relay is in it.
const (
	labSender = "sender.test"
	labRelay  = "relay." + labSender
)

// A labBench is a fake internet and a relay that delivers to it.
type labBench struct {
	world     *lab.World
	collector *lab.CollectorHost // of TLS reports by HTTPS
	log       *labLog
	dir       string // of the relay's files
	relay     string // where it takes mail
	client    *admin.Client

	file    *os.File // the relay's log
	stop    context.CancelFunc
	stopped chan error // what app.Run returned
}

// labSetup is how a bench is to be.
type labSetup struct {
	realPorts bool
	scenarios []lab.Scenario
	verbose   io.Writer // gets the relay's log; nil: nobody
}

// startLab starts a world with the scenarios, and a relay in a new temporary
// directory. The caller calls end.
func startLab(ctx context.Context, s labSetup) (*labBench, error) {
	dir, err := os.MkdirTemp("", "stsrelay-lab-")
	if err != nil {
		return nil, err
	}
	b := &labBench{log: &labLog{}, dir: dir, stopped: make(chan error, 1)}
	if err := b.start(ctx, s); err != nil {
		return nil, errors.Join(err, b.end(false))
	}
	return b, nil
}

func (b *labBench) start(ctx context.Context, s labSetup) (err error) {
	if b.file, err = os.Create(filepath.Join(b.dir, "relay.log")); err != nil {
		return err
	}
	b.log.copies = append(b.log.copies, b.file)
	if s.verbose != nil {
		b.log.copies = append(b.log.copies, s.verbose)
	}
	if err = b.buildWorld(s); err != nil {
		return err
	}
	cfg, err := b.configure()
	if err != nil {
		return err
	}
	return b.startRelay(ctx, cfg, s.realPorts)
}

// buildWorld starts a world with the scenarios, the domain of the senders, and
// those that TLS reports go to.
func (b *labBench) buildWorld(s labSetup) error {
	if s.realPorts {
		if err := mayBind(); err != nil {
			return err
		}
	}
	w, err := lab.Start(lab.Options{RealPorts: s.realPorts})
	if err != nil {
		return err
	}
	b.world = w
	return spoken(func() {
		w.DNS.SetAD(".", true) // the relay asks for it to see whether its resolver validates
		w.DNS.Sign(labSender)  // bounces of mail with REQUIRETLS ask for it too (RFC 8689, Section 5)
		w.AddMX(lab.MX{Name: "mx." + labSender, Domains: []string{labSender}, RequireTLS: true})
		w.SetUp(s.scenarios)
		b.collector = publishReports(w, s.scenarios)
	})
}

// spoken turns what the lab panics with, such as a port that cannot be had,
// into an error.
func spoken(change func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case string:
			err = errors.New(r)
		default:
			panic(r)
		}
	}()
	change()
	return nil
}

// mayBind says in words what is missing for real ports. It tries an address
// that only this process tries.
func mayBind() error {
	host := fmt.Sprintf("127.9.%d.%d", os.Getpid()>>8&0xff, os.Getpid()&0xff)
	for _, port := range []string{"25", "53", "443"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, port))
		switch {
		case errors.Is(err, os.ErrPermission):
			return fmt.Errorf("--real-ports: port %s may not be used by this user: run as root, or allow it with sysctl net.ipv4.ip_unprivileged_port_start=25; without --real-ports no rights are needed", port)
		case err != nil:
			return fmt.Errorf("--real-ports: %w", err)
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the relay's configuration as an operator would, and reads it
// as the daemon does.
func (b *labBench) configure() (config.Config, error) {
	roots := filepath.Join(b.dir, "roots.pem")
	if err := os.WriteFile(roots, b.world.RootsPEM(), 0o600); err != nil {
		return config.Config{}, err
	}
	key, err := b.signingKey()
	if err != nil {
		return config.Config{}, err
	}
	cert, certKey, err := b.certificate()
	if err != nil {
		return config.Config{}, err
	}
	quoted := make([]string, len(b.world.DNSServers()))
	for i, s := range b.world.DNSServers() {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	text := fmt.Sprintf(`# The relay of stsrelay lab run.
hostname = %[7]q
data_dir = %[2]q
postmaster = "postmaster@%[1]s"

[[listener]]
name = "lab"
address = "127.0.0.1:0"
tls = "starttls"               # REQUIRETLS is for TLS only
cert_file = %[8]q
key_file = %[9]q

[network]
allow_private = ["127.0.0.0/8", "fd00::/8"]

[dns]
servers = [%[3]s]

[queue]
retry = ["1h"]

[delivery]
roots_file = %[4]q

[tlsrpt]
organization = "stsrelay lab"
contact = "tls@%[1]s"

[[dkim]]
domain = %[1]q
selector = "lab"
key_file = %[6]q

[admin]
socket = %[5]q
http = ""
`, labSender, filepath.Join(b.dir, "data"), strings.Join(quoted, ", "), roots, filepath.Join(b.dir, "admin.sock"), key, labRelay, cert, certKey)
	path := filepath.Join(b.dir, "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return config.Config{}, err
	}
	return config.Load(path)
}

// certificate writes that of the relay's listener, and its key.
func (b *labBench) certificate() (cert, key string, err error) {
	c := b.world.CA.Certificate(lab.Good, labRelay)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return "", "", err
	}
	cert, key = filepath.Join(b.dir, "cert.pem"), filepath.Join(b.dir, "key.pem")
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o600); err != nil {
		return "", "", err
	}
	return cert, key, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// signingKey writes the key that report mail is signed with, and publishes it.
func (b *labBench) signingKey() (path string, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", err
	}
	record := "v=DKIM1; k=ed25519; s=tlsrpt; p=" + base64.StdEncoding.EncodeToString(public)
	b.world.DNS.SetTXT("lab._domainkey."+labSender, record)
	if err := os.WriteFile(filepath.Join(b.dir, "dkim.txt"), []byte(record), 0o600); err != nil { // for those who check signatures later
		return "", err
	}
	path = filepath.Join(b.dir, "dkim.pem")
	return path, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// labTimeouts are for an internet where nothing is far away: no scenario shall
// take longer than people like to wait.
var labTimeouts = delivery.Timeouts{
	Connect: 2 * time.Second, Greeting: 3 * time.Second, Hello: 3 * time.Second, TLS: 3 * time.Second, Mail: 3 * time.Second,
	Rcpt: 3 * time.Second, Data: 3 * time.Second, Block: 3 * time.Second, Final: 3 * time.Second, Quit: time.Second, Idle: 2 * time.Second,
}

// startRelay starts the relay and returns when it accepts mail.
func (b *labBench) startRelay(ctx context.Context, cfg config.Config, realPorts bool) error {
	var dialer network.Dialer = b.world.Dialer()
	if realPorts {
		dialer = &net.Dialer{}
	}
	ready := make(chan app.Info, 1)
	ctx, b.stop = context.WithCancel(ctx)
	go func() {
		b.stopped <- app.Run(ctx, cfg, app.Options{
			Version: versionText(), ConfigPath: filepath.Join(b.dir, "config.toml"), Log: zerolog.New(b.log).With().Timestamp().Logger(),
			Dialer: dialer, FetchLimit: 3 * time.Second, Timeouts: labTimeouts, Grace: time.Second,
			Ready: func(i app.Info) { ready <- i },
		})
	}()
	select {
	case info := <-ready:
		b.relay, b.client = info.Listeners["lab"].String(), admin.NewClient(info.Socket)
		return nil
	case err := <-b.stopped:
		b.stopped <- nil // for end
		if err == nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("starting the relay: %w", err)
	}
}

// end ends relay and world, and takes the files away unless they are to be
// kept. The error says what did not end as it should.
func (b *labBench) end(keep bool) (err error) {
	if b.client != nil {
		b.client.Close()
	}
	if b.stop != nil {
		b.stop()
		if err = <-b.stopped; err != nil {
			err = fmt.Errorf("the relay did not end in order: %w", err)
		}
	}
	if b.world != nil {
		b.world.Close()
	}
	if b.file != nil {
		err = errors.Join(err, b.file.Close())
	}
	if !keep {
		err = errors.Join(err, os.RemoveAll(b.dir))
	}
	return err
}
