package stscache_test

import (
	"os"
	"os/exec"
	"testing"
)

// net/http reads the environment's proxy once, so this needs a process that has
// it from the beginning.
func TestSTS_3_3_19_NoProxyOfTheEnvironment(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestRequest$", "-test.count=1")
	cmd.Env = append(os.Environ(), "HTTPS_PROXY=http://127.0.0.1:1", "https_proxy=http://127.0.0.1:1", "ALL_PROXY=http://127.0.0.1:1", "NO_PROXY=", "no_proxy=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
