package snapshot

import (
	"errors"
	"io/fs"

	"nofx.dev/shared/fault"
)

// limits is what a workspace may be. Beyond one the step fails, with the number
// named.
type limits struct {
	entries int   // files, links and directories
	bytes   int64 // of all files
	file    int64 // bytes of one file
	path    int   // bytes of a path
	depth   int   // directories above a file
}

var design = limits{
	entries: 200_000,
	bytes:   4 << 30,
	file:    1 << 30,
	path:    1024,
	depth:   64,
}

// beyond returns the error of a limit that was passed, with its number in the detail:
// fault.Invalid with code workspace-limit.
func beyond(format string, args ...any) error {
	return fault.New(fault.Invalid, "workspace-limit", format, args...)
}

// unreadable makes an error of permissions in the workspace at path, which only a step
// can have set, fault.Invalid with code workspace-unreadable.
func unreadable(path string, err error) error {
	e, ok := errors.AsType[*fs.PathError](err)
	if !ok || !errors.Is(e, fs.ErrPermission) {
		return err
	}
	name := e.Path
	if name == path {
		name = "."
	}
	return fault.New(fault.Invalid, "workspace-unreadable", "the permissions of %q, or of the directory it is in, keep it from being read", name).Because(err)
}
