package reviewstep

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"

	"github.com/google/uuid"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/tool"
)

// Credentials is a folder with tokens for forges, as a secret is mounted: TENANT/NAME has one,
// which repositories of that tenant name as their credential. It is read at each use, so
// that a token may be replaced at any time.
type Credentials string

// maxToken is how many bytes a token may have.
const maxToken = 16 << 10

var (
	tokenName  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	tokenShape = regexp.MustCompile(`^[\x21-\x7e]+$`) // what a header may have
)

// Read returns a token of a tenant. An error is a [tool.Failure] that names the token and
// has nothing of it.
func (c Credentials) Read(tenant uuid.UUID, name string) (string, error) {
	refused := func(why string) (string, error) {
		return "", tool.Failuref(run.ClassPolicy, "credential %q of the repository: %s", name, why)
	}
	if c == "" {
		return refused("this worker has no tokens of repositories (NOFX_FORGE_TOKENS_DIR)")
	}
	if !tokenName.MatchString(name) {
		return refused("it cannot be the name of a token")
	}
	content, err := c.open(run.TenantID.Format(tenant), name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refused(fmt.Sprintf("there is no file %s/%s among the tokens of this worker", run.TenantID.Format(tenant), name))
	case err != nil:
		if in, ok := errors.AsType[*fs.PathError](err); ok {
			err = in.Err
		}
		return refused(fmt.Sprintf("its file cannot be read: %v", err))
	}
	content = bytes.TrimRight(content, "\r\n")
	switch {
	case len(content) > maxToken:
		return refused(fmt.Sprintf("its file has more than %d bytes", maxToken))
	case !tokenShape.Match(content):
		return refused("its file is not one line of printable characters")
	}
	return string(content), nil
}

// open returns the beginning of a file in a tenant's folder. Links may lead to other places
// in that folder and not out of it.
func (c Credentials) open(tenant, name string) ([]byte, error) {
	all, err := os.OpenRoot(string(c))
	if err != nil {
		return nil, err
	}
	defer func() { _ = all.Close() }() // only read
	root, err := all.OpenRoot(tenant)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // only read
	if info, err := root.Stat(name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() { // to open a pipe could take for ever
		return nil, errors.New("it is not a regular file")
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(io.LimitReader(f, maxToken+3))
}
