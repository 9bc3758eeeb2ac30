package step

import (
	"context"
	"errors"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/seal"
	"nofx.dev/worker/internal/tool"
)

// openSecrets opens the secrets that the plan names, and what they were before they were set
// again. All are masked from now on in what the attempt leaves, whichever step it is: one of
// them may have passed a value on. Those that this step asks for are for its environment. What
// is not there, or cannot be opened, could not be masked: then the step does not run. A system
// step masks those of the plans that its run is about.
func (a *attempt) openSecrets(ctx context.Context) error {
	c := a.claim
	names := c.Spec.Secrets
	if rowOf(c.Tool).System {
		var err error
		if names, err = a.db.SubjectSecrets(ctx, c.TenantID, c.RunID); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	list, err := a.db.SealedSecrets(ctx, c.TenantID, names)
	if err != nil {
		return err
	}
	values, opened := []string{}, map[string]string{}
	for _, sealed := range list {
		text, err := a.keys.Open(sealed.Sealed, sealed.Bound()...)
		if errors.Is(err, seal.ErrSealed) {
			err = fault.New(fault.Unavailable, "unavailable", "the secret %s cannot be opened by the worker (NOFX_KEK)", sealed.Name).Because(err)
		}
		if err != nil {
			return err
		}
		opened[sealed.Name] = string(text) // the newest comes last
		values = append(values, string(text), strings.TrimSpace(string(text)))
	}
	a.redactor = a.redactor.With(values...)
	a.tools, a.reviews, a.system = a.tools.Masking(a.redactor), a.reviews.Masking(a.redactor), a.system.Masking(a.redactor)
	for _, name := range c.Spec.Secrets {
		if _, ok := opened[name]; !ok {
			return tool.Failuref(run.ClassPolicy, "the tenant has no secret %s any more, which the plan names; an administrator can set it again", name)
		}
	}
	a.secrets = map[string]string{}
	for _, name := range run.SecretsOf(c.Spec.Inputs) {
		a.secrets[name] = opened[name]
	}
	return nil
}
