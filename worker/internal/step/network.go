package step

import (
	"context"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/tool"
)

// hostsGranted returns a failure when the tenant does not grant all hosts that the step may
// reach by its plan: it did when the run was made.
func (a *attempt) hostsGranted(ctx context.Context) error {
	hosts := a.claim.Spec.Hosts
	if len(hosts) == 0 {
		return nil
	}
	granted, err := a.db.NetworkHosts(ctx, a.claim.TenantID)
	if err != nil {
		return err
	}
	if places := run.Ungranted(hosts, granted); len(places) > 0 {
		return tool.Failuref(run.ClassPolicy, "the tenant does not grant %s any more, which the plan asks for; an administrator can, by the setting network_hosts", hosts[places[0]])
	}
	return nil
}
