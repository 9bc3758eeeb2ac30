package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) settingsCommand() *cobra.Command {
	return group("settings", "Show and change the settings of the tenant", a.settingsGetCommand(), a.settingsSetCommand())
}

func (a *app) settingsGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get",
		Short: "Show the settings of the tenant",
		Long: `Show the settings of the tenant:
  retention_days          how long runs are kept after their end
  four_eyes               who started a run, or one that it descends from, approves and
                          waives none of its gates
  allow_waive             gates may be waived
  queued_runs_max         runs that may wait for their start
  model_tokens_per_day    what all reviews may use in a day (UTC)
  model_cost_usd_per_day  the same in US dollars
  reviews_enabled         reviews are made
  network_hosts           hosts that plans may ask for (policy.network)
This needs the role admin.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.answerSettings(client.GetSettings(cmd.Context()))
		},
	}
}

func (a *app) settingsSetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME=VALUE...",
		Short: "Change settings of the tenant",
		Long: `Change settings of the tenant, all that are given or none. A value is true, false, a
number, default, or, of network_hosts, a list of all its hosts with commas between them, or none.
"nofx settings get --help" says what the settings mean. This needs the role admin.`,
		Example: `  nofx settings set four_eyes=true retention_days=90
  nofx settings set queued_runs_max=default
  nofx settings set 'network_hosts=modules.example.org,*.example.com:8443'`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, _ []string, begun string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
			for name := range settingsIn(api.Settings{}) {
				if strings.HasPrefix(name, begun) {
					names = append(names, name+"=")
				}
			}
			slices.Sort(names)
			return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			change := map[string]json.RawMessage{}
			for _, arg := range args {
				name, value, ok := strings.Cut(arg, "=")
				if _, twice := change[name]; !ok || name == "" || twice {
					return usagef("%q: give each setting once, as NAME=VALUE", arg)
				}
				if value == "default" {
					value = "null"
				} else if name == networkHosts {
					value = asList(value)
				} else if first := strings.TrimLeft(value, "-0123456789"); !json.Valid([]byte(value)) || value == "null" || first == value && value != "true" && value != "false" {
					return usagef("%q: a value is true, false, a number, or default", arg)
				}
				change[name] = json.RawMessage(value)
			}
			body, err := json.Marshal(change)
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.answerSettings(client.ChangeSettingsWithBody(cmd.Context(), nil, "application/json", bytes.NewReader(body)))
		},
	}
}

// networkHosts is the setting that is a list.
const networkHosts = "network_hosts"

// asList returns the JSON of texts with commas between them; "none", as the table shows it,
// is no text.
func asList(value string) string {
	texts := []string{}
	if value != "" && value != "none" {
		texts = strings.Split(value, ",")
	}
	for i := range texts {
		texts[i] = strings.TrimSpace(texts[i])
	}
	raw, _ := json.Marshal(texts) // texts always marshal
	return string(raw)
}

// settingsIn returns settings by their names, as JSON has them.
func settingsIn(s api.Settings) map[string]json.RawMessage {
	raw, _ := json.Marshal(s) // a type of the contract always marshals
	byName := map[string]json.RawMessage{}
	_ = json.Unmarshal(raw, &byName)
	return byName
}

// answerSettings prints the settings of a response.
func (a *app) answerSettings(resp *http.Response, err error) error {
	got, raw, err := call[api.SettingsAnswer](resp, err)
	if err != nil {
		return err
	}
	return a.answer(raw, func(w io.Writer) {
		values := settingsIn(got.Settings)
		var rows [][]string
		for _, name := range slices.Sorted(maps.Keys(values)) {
			value, source := string(values[name]), "default"
			if value == "null" {
				value = "no limit"
			}
			if name == networkHosts {
				if value = strings.Join(got.Settings.NetworkHosts, ","); value == "" {
					value = "none"
				}
			}
			if slices.Contains(got.Set, name) {
				source = "set"
			}
			rows = append(rows, []string{name, value, source})
		}
		a.table(w, []string{"SETTING", "VALUE", "SOURCE"}, rows)
		if got.UpdatedAt != nil {
			by := ""
			if name := deref(got.UpdatedByName); name != "" {
				by = " by " + clean(name)
			}
			fmt.Fprintf(w, "changed %s%s\n", clock(got.UpdatedAt), by)
		}
	})
}
