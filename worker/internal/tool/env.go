package tool

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"nofx.dev/shared/run"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// The entries of a call's scratch folder.
const (
	homeDir    = "home"
	tmpDir     = "tmp"
	outputFile = "output"
	scriptFile = "script"
	markFile   = "mark"
)

// environment returns all that code of the step gets (API.md, Tools): the names every
// step has, what the plan allows of NOFX_STEP_ENV, the step's own and its secrets, the later
// winning; nothing overrides what the worker alone knows.
func (b *Box) environment(c Call, own map[string]string) []string {
	vars := map[string]string{
		"PATH":   defaultPath,
		"LANG":   "C.UTF-8",
		"HOME":   filepath.Join(c.Scratch, homeDir),
		"TMPDIR": filepath.Join(c.Scratch, tmpDir),
	}
	for name, value := range b.cfg.StepEnv {
		if name == "PATH" || name == "LANG" || slices.Contains(c.Spec.EnvAllowed, name) {
			vars[name] = value
		}
	}
	maps.Copy(vars, own)
	maps.Copy(vars, c.Secrets)
	maps.DeleteFunc(vars, func(name, _ string) bool { return strings.HasPrefix(name, "NOFX_") })
	if len(c.Spec.Hosts) > 0 {
		maps.Copy(vars, proxyVars)
	}
	vars["NOFX_RUN_ID"] = c.RunID
	vars["NOFX_STEP_ID"] = c.StepID
	vars["NOFX_STEP_NAME"] = c.Name
	vars["NOFX_WORKSPACE"] = c.Workspace
	vars["NOFX_OUTPUT"] = filepath.Join(c.Scratch, outputFile)
	if c.Traceparent != "" {
		vars["TRACEPARENT"] = c.Traceparent
	}
	env := make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env
}

// openScratch lays out the scratch folder. The root stays good for reading what
// the step's code left there, whatever that code did to the path.
func openScratch(c Call) (*os.Root, error) {
	root, err := os.OpenRoot(c.Scratch)
	if err != nil {
		return nil, Failuref(run.ClassInfrastructure, "open scratch folder: %w", err)
	}
	for _, dir := range []string{homeDir, tmpDir} {
		if err == nil {
			err = root.MkdirAll(dir, 0o700)
		}
	}
	if err == nil {
		err = root.WriteFile(outputFile, nil, 0o600)
	}
	if err != nil {
		_ = root.Close()
		return nil, Failuref(run.ClassInfrastructure, "lay out scratch folder: %w", err)
	}
	return root, nil
}
