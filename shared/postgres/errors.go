package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/shared/fault"
)

// mapError turns a driver error or one of our SQLSTATEs (EXECUTION.md) into a fault. Errors
// that are faults already, and unexpected errors, are returned unchanged.
func mapError(err error) error {
	if err == nil || fault.KindOf(err) != "" {
		return err
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.New(fault.NotFound, "not-found", "not found").Because(err)
	}
	if connectionLost(err) {
		return unavailable(err)
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	if isForgetful(err) {
		return forgetful(err)
	}
	var detail struct {
		fault.Transition
		fault.Stale
		Noun   string
		Limit  string
		Most   int
		Fields []fault.Field
	}
	_ = json.Unmarshal([]byte(pg.Detail), &detail) // other errors' details are prose
	switch pg.Code {
	case "NX001":
		return fault.OfTransition(detail.Transition).Because(err)
	case "NX002":
		return fault.New(fault.Invalid, "reason-required", "a reason is required").Because(err)
	case "NX003":
		return fault.OfStale(detail.Stale).Because(err)
	case "NX004":
		return fault.New(fault.Fenced, "fenced", "the lease is lost").Because(err)
	case "NX005":
		return fault.New(fault.NotFound, "not-found", "no such %s", cmp.Or(detail.Noun, "thing")).Because(err)
	case "NX011":
		return atLimit(detail.Limit, detail.Most).Because(err)
	case "NX008":
		return fault.New(fault.Conflict, "run-busy", "steps of the run are running or about to; pause the run and wait until they have ended, or wait until the run has").Because(err)
	case "NX010":
		return leaseLapsed().Because(err)
	case "NX020":
		if len(detail.Fields) > 0 {
			return fault.OfFields("invalid-field", detail.Fields...).Because(err)
		}
	case "NX021":
		e := fault.New(fault.RateLimited, "quota-exceeded", "%s of the tenant wait for a worker, and it may have no more (setting queued_runs_max); ask again once some have begun", fault.Count(detail.Most, "run")).Because(err)
		e.RetryAfter = 5 * time.Second
		return e
	case "NX018":
		return fault.New(fault.Conflict, "alert-endpoint-limit", "the tenant has %s, and can have no more", fault.Count(detail.Most, "alert endpoint")).Because(err)
	case "NX023":
		return fault.New(fault.Conflict, "secret-limit", "the tenant has %s, and can have no more", fault.Count(detail.Most, "secret")).Because(err)
	case "NX022":
		return fault.New(fault.Forbidden, "waive-disabled", "gates of this tenant may not be waived (setting allow_waive)").Because(err)
	case "NX009":
		return fault.New(fault.Forbidden, "four-eyes", "the author of a run may not approve or waive its gates").Because(err)
	}
	if strings.HasPrefix(pg.Code, "22") || pg.Code == "23514" {
		// A value that no column accepts, such as a NUL or a value over a limit: it would
		// be refused every time.
		return fault.New(fault.Invalid, "invalid-field", "the database cannot store a value of this").Because(err)
	}
	if passing(err) || pg.Code == "57014" || pg.Code == "55P03" || strings.HasPrefix(pg.Code, "53") {
		return unavailable(err)
	}
	return err
}

// atLimit returns the error for one branch too many.
func atLimit(limit string, most int) *fault.Error {
	if limit == "depth" {
		return fault.New(fault.Conflict, "branch-limit", "the run is the end of %d branches of branches, and there can be no more; branch from an earlier run", most)
	}
	return fault.New(fault.Conflict, "branch-limit", "the run has %d branches, and a run can have no more", most)
}

// leaseLapsed returns the error for a caller whose lease has expired but was not taken
// away: the caller can continue after renewing the lease.
func leaseLapsed() *fault.Error {
	return fault.New(fault.Unavailable, "lease-lapsed", "the lease has expired and must be renewed first")
}

func unavailable(err error) error {
	e := fault.New(fault.Unavailable, "unavailable", "the database is not available").Because(err)
	e.RetryAfter = 2 * time.Second
	return e
}

// plainly returns the reason why the database cannot be used, without addresses.
func plainly(err error) string {
	dns, unknown := errors.AsType[*net.DNSError](err)
	pg, answered := errors.AsType[*pgconn.PgError](err)
	switch {
	case unknown && dns.IsNotFound:
		return "there is no such host; see DATABASE_URL"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing answers there; see DATABASE_URL"
	case pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded):
		return "it does not answer in time"
	case !answered:
		return "the connection failed; see DATABASE_URL"
	}
	switch pg.Code {
	case "28P01", "28000":
		return "it refuses the role or its password; see DATABASE_URL"
	case "3D000":
		return "there is no such database; see DATABASE_URL"
	case "42P01", "3F000", "42883":
		return "it is not migrated; run migrate"
	case "42501":
		return "the role has no rights in it; log in as " + GatewayRole + " or " + WorkerRole
	case "53300":
		return "it has no connection left for the role"
	case "57P01", "57P02", "57P03":
		return "it is starting up or shutting down"
	}
	return "it refuses a statement (SQLSTATE " + pg.Code + ")"
}

// Silent reports whether err means that the database did not respond at all, or refused all
// logins. A smaller request would fail as well.
func Silent(err error) bool {
	_, answered := errors.AsType[*pgconn.PgError](err)
	_, refused := errors.AsType[*pgconn.ConnectError](err)
	return errors.Is(err, fault.Unavailable) && (!answered || refused)
}

// passing reports whether a whole transaction may be run again: it met another,
// or its server goes away (RELIABILITY.md, R12).
func passing(err error) bool {
	if err == nil {
		return false
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == "40001" || pg.Code == "40P01" || dropConn(err)
	}
	return pgconn.SafeToRetry(err)
}

// dropConn reports whether the connection of err is of no more use.
func dropConn(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch pg.Code {
	case "25006", "57P01", "57P02", "57P03":
		return true
	}
	return strings.HasPrefix(pg.Code, "08")
}

// connectionLost reports whether err means that the server cannot be reached or refuses
// logins, for example during a failover, and not that the caller gave up.
func connectionLost(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || pgconn.SafeToRetry(err) ||
		(pgconn.Timeout(err) && !errors.Is(err, context.Canceled)) ||
		errors.As(err, &network) && !errors.Is(err, context.Canceled) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "conn closed") // pgx has no type for it
}
