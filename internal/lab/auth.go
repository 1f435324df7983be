package lab

import (
	"encoding/base64"
	"strings"
)

// auth logs a client in by PLAIN or LOGIN (RFC 4954), against MX.Users. A rule
// for AUTH rules its last reply.
func (c *conversation) auth(e event, arg string) error {
	mechanism, initial, _ := strings.Cut(arg, " ")
	if c.conf.Users == nil {
		return c.say(e, "502 5.5.1 command not known")
	}
	var user, pass string
	var err error
	switch strings.ToUpper(mechanism) {
	case "PLAIN":
		if initial == "" {
			initial, err = c.ask("")
		}
		f := strings.Split(decode(initial), "\x00")
		if len(f) == 3 {
			user, pass = f[1], f[2]
		}
	case "LOGIN":
		user = decode(initial)
		if initial == "" {
			user, err = c.ask("Username:")
			user = decode(user)
		}
		if err == nil {
			pass, err = c.ask("Password:")
			pass = decode(pass)
		}
	default:
		return c.say(e, "504 5.5.4 mechanism not known")
	}
	if err != nil {
		return err
	}
	usual := "535 5.7.8 wrong user or password"
	if want, ok := c.conf.Users[user]; ok && want == pass {
		usual = "235 2.7.0 welcome"
	}
	code, err := c.reply(e, usual)
	if code == "235" {
		c.user = user
	}
	return c.unless421(code, err)
}

// ask puts a challenge and reads what the client answers.
func (c *conversation) ask(challenge string) (string, error) {
	if err := c.send("334 " + base64.StdEncoding.EncodeToString([]byte(challenge)) + "\r\n"); err != nil {
		return "", err
	}
	return c.line()
}

func decode(s string) string {
	b, _ := base64.StdEncoding.DecodeString(s) // rubbish is nobody's password
	return string(b)
}
