package harness

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// variable is one line of an environment file.
type variable struct{ name, value string }

// writeEnvFile writes lines NAME='value' for `set -a; . FILE`. The file is for
// its owner alone and appears whole: it is renamed into place.
func writeEnvFile(path string, vars []variable) error {
	var b strings.Builder
	for _, v := range vars {
		if strings.ContainsAny(v.value, "\x00\n") {
			return errors.New("environment file: the value of " + v.name + " has more than one line")
		}
		// Within single quotes all is literal but the quote itself.
		b.WriteString(v.name + "='" + strings.ReplaceAll(v.value, "'", `'\''`) + "'\n")
	}
	return WriteFile(path, []byte(b.String()))
}

// WriteFile writes a file that only its owner may read, whole or not at all.
func WriteFile(path string, content []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	draft, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600 from the start
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(draft.Name())
		}
	}()
	_, err = draft.Write(content)
	if err = errors.Join(err, draft.Close()); err != nil {
		return err
	}
	return os.Rename(draft.Name(), path)
}

// renewEnvFile writes what is true now, if a file is wanted.
func (s *Stack) renewEnvFile() error {
	if s.cfg.EnvFile == "" {
		return nil
	}
	s.envFile.Lock()
	defer s.envFile.Unlock()
	var pids, metrics []string
	for _, w := range s.Workers() {
		if pid := w.PID(); pid != 0 {
			pids = append(pids, strconv.Itoa(pid))
		}
		metrics = append(metrics, w.MetricsURL())
	}
	worker := s.environment(workerDefaults, s.cfg.Env, s.cfg.WorkerEnv)
	vars := []variable{
		{"NOFX_URL", s.URL},
		{"NOFX_API_KEY", s.APIKey},
		{"NOFX_GATEWAY_PID", strconv.Itoa(s.Gateway.PID())},
		{"NOFX_WORKER_PIDS", strings.Join(pids, " ")},
		{"NOFX_GATEWAY_METRICS_URL", s.Gateway.MetricsURL()},
		{"NOFX_WORKER_METRICS_URLS", strings.Join(metrics, " ")},
		{"NOFX_ADMIN_DATABASE_URL", s.AdminURL},
		{"NOFX_GATEWAY_DATABASE_URL", s.environment(nil, map[string]string{"DATABASE_URL": s.GatewayDB}, s.cfg.Env, s.cfg.GatewayEnv)["DATABASE_URL"]},
		{"NOFX_DATA_DIR", s.Dir},
	}
	for _, name := range []string{
		"DATABASE_URL", "NOFX_DATABASE_LISTEN_URL", "NOFX_S3_ENDPOINT", "NOFX_S3_BUCKET", "NOFX_S3_REGION",
		"NOFX_S3_ACCESS_KEY", "NOFX_S3_SECRET_KEY", "NOFX_KEK", "NOFX_SANDBOX_MIN_TIER", "NOFX_ENV",
	} {
		vars = append(vars, variable{name, worker[name]})
	}
	return writeEnvFile(s.cfg.EnvFile, vars)
}
