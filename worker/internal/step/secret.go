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

// openSecrets opens the secrets that the plan names. They are masked from now on in all that
// the attempt leaves, whichever step it is: one of them may have passed a secret on. Those
// that this step asks for are for its environment; it fails when one of them is not there.
// While they cannot be opened nothing runs, since nothing would be masked.
func (a *attempt) openSecrets(ctx context.Context) error {
	c := a.claim
	if len(c.Spec.Secrets) == 0 {
		return nil
	}
	list, err := a.db.SealedSecrets(ctx, c.TenantID, c.Spec.Secrets)
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
		opened[sealed.Name] = string(text)
		values = append(values, string(text), strings.TrimSpace(string(text)))
	}
	a.redactor = a.redactor.With(values...)
	a.tools, a.reviews = a.tools.Masking(a.redactor), a.reviews.Masking(a.redactor)
	a.secrets = map[string]string{}
	for _, name := range run.SecretsOf(c.Spec.Inputs) {
		value, ok := opened[name]
		if !ok {
			return tool.Failuref(run.ClassPolicy, "the tenant has no secret %s any more; an administrator can set it again", name)
		}
		a.secrets[name] = value
	}
	return nil
}
