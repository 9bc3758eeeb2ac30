package main

import (
	"errors"
	"fmt"
	"time"

	"nofx.dev/shared/config"
	"nofx.dev/shared/seal"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/tool"
)

// settings are what a worker reads from its environment.
type settings struct {
	config.Common
	ListenURL    string        `env:"NOFX_DATABASE_LISTEN_URL" secret:"true" doc:"direct or session-mode connection, when DATABASE_URL is a transaction pooler"`
	MetricsAddr  string        `env:"NOFX_METRICS_ADDR" envDefault:":9465" doc:"where metrics and readiness are served"`
	Queues       []string      `env:"NOFX_WORKER_QUEUES" envDefault:"step,review,maintenance" doc:"queues to serve, separated by commas: step runs code of plans, review asks models, maintenance does work of the system such as verifying uploads; in production a worker with a model's key serves review alone, and one without leaves review to others"`
	Concurrency  int           `env:"NOFX_WORKER_CONCURRENCY" envDefault:"16" want:">=1" doc:"steps at once, on each queue; one of eight of these slots is kept for tenants with fewer than four active steps, so that long steps of another do not hold all"`
	LeaseTTL     time.Duration `env:"NOFX_LEASE_TTL" envDefault:"5s" want:">=1s" doc:"how long a step stays with a worker that is silent; the same on all workers"`
	DrainGrace   time.Duration `env:"NOFX_DRAIN_GRACE" envDefault:"25s" want:">=0s" doc:"how long running steps may go on after SIGTERM"`
	Budget       time.Duration `env:"NOFX_INFRASTRUCTURE_BUDGET" envDefault:"15m" want:">=1s" doc:"how long a step is tried again, or its result is kept, while storage, database or machine fail it; at its end the step fails"`
	WorkspaceDir string        `env:"NOFX_WORKSPACE_DIR" doc:"directory for workspaces, empty or one of workers: each has its own below it and removes what dead ones left; by default nofx-worker-UID below the system's temporary directory"`
	StepEnv      string        `env:"NOFX_STEP_ENV" doc:"lines NAME=value that a plan may let into its steps by env_allowed; values of 8 bytes or more are masked like secrets in logs, outputs, evidence and reasons, except those of PATH and LANG"`
	GitAllow     []string      `env:"NOFX_GIT_ALLOW" doc:"hosts, or file: folders, that git:checkout and workspaces may read, separated by commas"`
	EgressAllow  []string      `env:"NOFX_EGRESS_ALLOW" doc:"host:port, separated by commas, that requests of steps and alerts may reach although they are not on the public internet"`
	PublicURL    string        `env:"NOFX_PUBLIC_URL" want:"url" example:"https://nofx.example.com" doc:"base URL of the gateway, for the links in alerts; without it they have none"`
	Sandbox      sandboxSettings
	Model        modelSettings
	Forge        forgeSettings
}

// parts are the settings that have a form of their own, read.
type parts struct {
	stepEnv      map[string]string
	egress       egress.Allow
	repositories []string
	keys         *seal.Key
}

// parts reads them. An error has a line for each that is wrong, models included.
func (s settings) parts() (p parts, err error) {
	wrong := func(name string, problem error) {
		if problem != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", name, problem))
		}
	}
	var problem error
	p.stepEnv, problem = stepEnv(s.StepEnv)
	wrong("NOFX_STEP_ENV", problem)
	p.egress, problem = egress.ParseAllow(s.EgressAllow)
	wrong("NOFX_EGRESS_ALLOW", problem)
	p.repositories, problem = tool.ParseGitAllow(s.GitAllow)
	wrong("NOFX_GIT_ALLOW", problem)
	p.keys, problem = seal.New(s.KEK, s.Env == "production")
	wrong("NOFX_KEK", problem)
	_, problem = s.Model.client(nil)
	_, forges := s.Forge.hosts()
	return p, errors.Join(err, problem, forges)
}
