package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) loginCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "login [--url URL]",
		Short: "Store a gateway's address and a key for it",
		Long: `Store a gateway's address and a key for it in nofx/config.json in your
configuration folder, readable only by you. The key is read from standard input,
is not shown, and is tried at the gateway before it is stored.`,
		Example: `  nofx login --url https://nofx.example.com
  nofx login --url http://127.0.0.1:8080 < key.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, _, err := a.address()
			if err != nil {
				return err
			}
			key, err := a.readKey(address)
			if err != nil {
				return err
			}
			client, err := a.clientOf(caller{address: address, key: fixed(key), tries: maxTries}, answerTimeout)
			if err != nil {
				return err
			}
			me, raw, err := call[api.Whoami](client.Whoami(cmd.Context()))
			if err != nil {
				return err
			}
			path, err := a.writeConfig(config{URL: address, APIKey: key})
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				p := me.Principal
				fmt.Fprintf(w, "%s of %s at %s, stored in %s\n", clean(who(p.Subject, &p.Name)), clean(p.Tenant), address, path)
			})
		},
	}
}

// readKey prompts for a key, or reads one line from standard input.
func (a *app) readKey(address string) (string, error) {
	var line string
	var err error
	if a.prompt != nil {
		line, err = a.prompt("API key for " + address + ": ")
	} else if line, err = bufio.NewReader(a.in).ReadString('\n'); errors.Is(err, io.EOF) {
		err = nil
	}
	if err != nil {
		return "", fmt.Errorf("read the key: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", usagef("no key on standard input")
	}
	return line, nil
}

func (a *app) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Show your identity at the gateway",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, key, err := a.gateway()
			if err != nil {
				return err
			}
			client, err := a.clientOf(caller{address: address, key: key, tries: maxTries}, answerTimeout)
			if err != nil {
				return err
			}
			me, raw, err := call[api.Whoami](client.Whoami(cmd.Context()))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				p := me.Principal
				facts(w, "gateway", address, "tenant", p.Tenant, "subject", who(p.Subject, &p.Name), "role", string(p.Role),
					"scopes", strings.Join(p.Scopes, " "), "expires", clock(p.ExpiresAt))
			})
		},
	}
}
