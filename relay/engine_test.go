package relay_test

import (
	"testing"
	"testing/synctest"
	"time"

	"stsrelay/delivery"
)

// inBubble runs a test in a time of its own. The engine must have ended when f
// returns.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestEngineDelivers(t *testing.T) {
	inBubble(t, "a message is delivered at once and leaves the queue", func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		w.send(letter{from: "a@sender.example", to: "b@good.example"})
		synctest.Wait()
		if n := len(w.tried("good.example")); n != 1 || len(w.entries()) != 0 {
			t.Errorf("%d attempts, %d left", n, len(w.entries()))
		}
		w.close()
	})
	inBubble(t, "SMTP-4.5.4.1-04 a thousand messages to a dead host cost a bounded number of connections", func(t *testing.T) {
		w := newWorld(t, nil)
		w.to("dead.example", fails(refused(delivery.ConnectFailed), 30*time.Second))
		for range 1000 {
			w.send(letter{from: "a@sender.example", to: "b@dead.example"})
		}
		w.start()
		time.Sleep(time.Minute)
		t.Log(w.connections("dead.example"))
		time.Sleep(time.Hour)
		t.Log(w.connections("dead.example"))
		w.close()
	})
}
