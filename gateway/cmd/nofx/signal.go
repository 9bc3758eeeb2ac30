package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) signalCommand() *cobra.Command {
	return group("signal", "Send signals to waiting steps", a.signalSendCommand())
}

func (a *app) signalSendCommand() *cobra.Command {
	var payload, key string
	c := &cobra.Command{
		Use:   "send KEY",
		Short: "Send a signal to the step that waits for it",
		Long: `Send a signal to the step of tool "signal" that waits for the key. If several wait, the one
that has waited longest gets it. If none waits, the signal is stored for 30 days, for the
first step that does.`,
		Example: `  nofx signal send deploy/42 --payload '{"version": "1.2.3"}'`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := api.SignalRequest{Key: args[0]}
			if payload != "" {
				if !json.Valid([]byte(payload)) {
					return usagef("--payload is not JSON; a string needs quotes of its own: --payload '\"…\"'")
				}
				body.Payload = json.RawMessage(payload)
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			if key == "" {
				key = rand.Text()
			}
			sent, raw, err := call[api.SignalAnswer](client.SendSignal(cmd.Context(), &api.SendSignalParams{IdempotencyKey: &key}, body))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				what := "stored until a step waits for it"
				if sent.Signal.Taken {
					what = "taken by a waiting step"
				}
				fmt.Fprintf(w, "%s %s\n", sent.Signal.ID, what)
			})
		},
	}
	c.Flags().StringVar(&payload, "payload", "", "JSON for the step (default null)")
	c.Flags().StringVar(&key, "idempotency-key", "", "key that makes the command repeatable: the signal is sent once")
	return c
}
