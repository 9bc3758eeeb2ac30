package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) alertCommand() *cobra.Command {
	return group("alert", "Have URLs told of events by signed requests", a.alertListCommand(), a.alertCreateCommand(), a.alertUpdateCommand(), a.alertRotateCommand(),
		a.alertDeleteCommand(), a.alertDeliveriesCommand(), a.alertRedeliverCommand())
}

const alertEvents = `Events: approval.requested (a step waits for a person), gate.failed (a gate failed, or a
person rejected one), run.failed.`

func (a *app) alertListCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the endpoints of alerts, newest first, without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.AlertEndpointPage](client.ListAlertEndpoints(cmd.Context(), &api.ListAlertEndpointsParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, e := range page.Items {
					rows[i] = []string{e.ID, alertStatus(e), eventList(e.Events), clock(e.FailingSince), clock(e.DroppedAt), e.URL}
				}
				a.table(w, []string{"ENDPOINT", "STATUS", "EVENTS", "FAILING SINCE", "DROPPED AT", "URL"}, rows, "DROPPED AT", "FAILING SINCE", "EVENTS")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

// alertStatus returns the status of an endpoint, and why it is disabled.
func alertStatus(e api.AlertEndpoint) string {
	if e.DisabledReason == nil {
		return string(e.Status)
	}
	return fmt.Sprintf("%s (%s)", e.Status, *e.DisabledReason)
}

func eventList(events []api.AlertEvent) string {
	words := make([]string, len(events))
	for i, e := range events {
		words[i] = string(e)
	}
	return strings.Join(words, ",")
}

// asEvents returns events as they were given; the gateway knows which there are.
func asEvents(words []string) (events []api.AlertEvent) {
	for _, w := range words {
		events = append(events, api.AlertEvent(w))
	}
	return events
}

func (a *app) alertCreateCommand() *cobra.Command {
	var events []string
	c := &cobra.Command{
		Use:   "create URL",
		Short: "Have a URL told of events; its secret is shown only once",
		Long: `Have a URL told of events by requests that are signed as Standard Webhooks say. The secret is
shown only once. This needs the role admin.

` + alertEvents,
		Example: `  nofx alert create https://hooks.example.com/nofx
  nofx alert create https://hooks.example.com/nofx --event run.failed,gate.failed`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			made, raw, err := call[api.AlertEndpointAnswer](client.CreateAlertEndpoint(cmd.Context(), api.AlertEndpointRequest{URL: args[0], Events: asEvents(events)}))
			if err != nil {
				return err
			}
			return a.alertSecret(made, raw, "created")
		},
	}
	c.Flags().StringSliceVar(&events, "event", []string{"approval.requested", "gate.failed", "run.failed"}, "event to tell of; may be repeated")
	return c
}

// alertSecret prints the secret of an endpoint, which is shown this once.
func (a *app) alertSecret(e api.AlertEndpointAnswer, raw []byte, done string) error {
	err := a.answer(raw, func(w io.Writer) {
		fmt.Fprintf(a.errOut, "%s; the secret is shown only once:\n", e.Endpoint.ID)
		fmt.Fprintln(w, deref(e.Secret))
	})
	if err != nil {
		err = fmt.Errorf("%s was %s, but its secret could not be printed: %w\nfor another one: %s alert rotate %s", e.Endpoint.ID, done, err, a.self(), e.Endpoint.ID)
	}
	return err
}

func (a *app) alertUpdateCommand() *cobra.Command {
	var address string
	var events []string
	var enable, disable bool
	c := &cobra.Command{
		Use:   "update ENDPOINT",
		Short: "Change the URL or the events of an endpoint, or switch it on or off",
		Long: `Change the URL or the events of an endpoint, or switch it on or off. What waits for an
endpoint that is switched off has failed; "nofx alert redeliver" sends it later.

` + alertEvents,
		Example: `  nofx alert update ENDPOINT --event run.failed
  nofx alert update ENDPOINT --enable`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeAlert(),
		RunE: func(cmd *cobra.Command, args []string) error {
			change := api.AlertEndpointChange{URL: optional(address), Events: asEvents(events)}
			if enable || disable {
				change.Enabled = &enable
			}
			if change.URL == nil && change.Events == nil && change.Enabled == nil {
				return usagef("give --url, --event, --enable or --disable")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			changed, raw, err := call[api.AlertEndpointAnswer](client.ChangeAlertEndpoint(cmd.Context(), args[0], nil, change))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				e := changed.Endpoint
				fmt.Fprintf(w, "%s is %s: %s to %s\n", e.ID, alertStatus(e), eventList(e.Events), clean(e.URL))
			})
		},
	}
	c.Flags().StringVar(&address, "url", "", "where to send events from now on")
	c.Flags().StringSliceVar(&events, "event", nil, "event to tell of, instead of those before; may be repeated")
	c.Flags().BoolVar(&enable, "enable", false, "switch it on")
	c.Flags().BoolVar(&disable, "disable", false, "switch it off")
	c.MarkFlagsMutuallyExclusive("enable", "disable")
	return c
}

func (a *app) alertRotateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate ENDPOINT",
		Short: "Give an endpoint another secret; the one before signs too for 24 hours",
		Args:  cobra.ExactArgs(1), ValidArgsFunction: a.completeAlert(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			rotated, raw, err := call[api.AlertEndpointAnswer](client.RotateAlertSecret(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return a.alertSecret(rotated, raw, "rotated")
		},
	}
}

func (a *app) alertDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete ENDPOINT",
		Short: "Delete an endpoint with its deliveries",
		Args:  cobra.ExactArgs(1), ValidArgsFunction: a.completeAlert(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			_, raw, err := call[struct{}](client.DeleteAlertEndpoint(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { fmt.Fprintf(w, "%s deleted\n", args[0]) })
		},
	}
}

func (a *app) alertDeliveriesCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "deliveries ENDPOINT",
		Short: "List deliveries to an endpoint, newest first, each with its last attempt",
		Args:  cobra.ExactArgs(1), ValidArgsFunction: a.completeAlert(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.AlertDeliveryPage](client.ListAlertDeliveries(cmd.Context(), args[0], &api.ListAlertDeliveriesParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, d := range page.Items {
					rows[i] = []string{d.ID, string(d.Event), string(d.Status), strconv.Itoa(d.Attempt), alertResult(d), clock(&d.At), clock(d.NextAttemptAt)}
				}
				a.table(w, []string{"DELIVERY", "EVENT", "STATUS", "ATTEMPT", "RESULT", "AT", "NEXT ATTEMPT"}, rows, "AT", "RESULT", "NEXT ATTEMPT")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

// alertResult returns what the last attempt at a delivery came to.
func alertResult(d api.AlertDelivery) string {
	var words []string
	if d.ResponseCode != nil {
		words = append(words, strconv.Itoa(*d.ResponseCode))
	}
	if d.Error != nil {
		words = append(words, *d.Error)
	}
	return strings.Join(words, " ")
}

func (a *app) alertRedeliverCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "redeliver ENDPOINT DELIVERY",
		Short: "Send a delivery again at once, under the same id",
		Args:  cobra.ExactArgs(2), ValidArgsFunction: a.completeAlert(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			sent, raw, err := call[api.AlertDeliveryAnswer](client.RedeliverAlert(cmd.Context(), args[0], args[1]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", sent.Delivery.ID, sent.Delivery.Status) })
		},
	}
}

// completeAlert offers the endpoints.
func (a *app) completeAlert() completion {
	return a.asks(1, func(ctx context.Context, c *api.Client, _ []string, _ string) (list []cobra.Completion) {
		page, _, err := call[api.AlertEndpointPage](c.ListAlertEndpoints(ctx, &api.ListAlertEndpointsParams{}))
		if err != nil {
			return nil
		}
		for _, e := range page.Items {
			list = append(list, e.ID)
		}
		return list
	})
}
