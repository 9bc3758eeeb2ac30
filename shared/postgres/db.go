package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/migrations"
	"nofx.dev/shared/fault"
)

// Address is a database address and the setting that holds it. It explains errors to the
// person who set it.
type Address migrations.Address

// Explain returns what [migrations.Address] explains, and names the setting where [DB.Ready]
// finds something wrong.
func (a Address) Explain(err error) error {
	explained := migrations.Address(a).Explain(err)
	if e, ok := errors.AsType[*fault.Error](explained); ok && e.Kind == fault.Unavailable {
		return fmt.Errorf("%s: %s", a.Setting, e.Detail)
	}
	return explained
}

// The roles that gateways and workers log in as. Each may do what its process does and
// nothing of what only the other does.
const (
	GatewayRole = "nofx_gateway"
	WorkerRole  = "nofx_worker"
)

// Config says which database to use and how.
type Config struct {
	URL           string                 // as Role
	Role          string                 // GatewayRole or WorkerRole, of which [DB.Ready] takes no other; "": any
	MaxConns      int32                  // 0: pgx's default
	Pooled        bool                   // URL is a transaction pooler: no prepared statements
	JobMiddleware []rivertype.Middleware // of the inserting client: the trace carrier
	Connected     func()                 // called when a connection was made; nil does nothing
	Patience      time.Duration          // with a server that does not answer; 0: 10 s
	AcquireWait   time.Duration          // for a connection of the pool; 0: 2 s
	LockWait      time.Duration          // of claims and finishes for a run that another transaction holds; 0: 100 ms
}

// DB is a pool of connections and a River client that only inserts.
type DB struct {
	pool     *pgxpool.Pool
	role     string // as in Config
	shares   *shares
	river    *QueueClient
	patience time.Duration
	searches *searches

	acquireWait, lockWait time.Duration
	pooled                bool
}

// Limits of one request to the database (EXECUTION.md, Limits).
const (
	acquireWait = 2 * time.Second
	lockWait    = 100 * time.Millisecond
	maxTries    = 4
)

// patience is the longest time of a transaction, or of opening a connection. A server that
// responds ends each statement sooner; callers of a server that vanished would otherwise
// wait for TCP's own timeout.
const patience = 10 * time.Second

// notifyEvery is the shortest interval between notifications of a queue by one process.
// Jobs whose notification River drops within it are found only by the next poll.
const notifyEvery = 5 * time.Millisecond

// Open makes a DB. It does not connect yet; [DB.Ready] does.
func Open(ctx context.Context, c Config) (*DB, error) {
	pc, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, fmt.Errorf("database address: %w", err)
	}
	if c.MaxConns > 0 {
		pc.MaxConns = c.MaxConns
	}
	if c.Patience == 0 {
		c.Patience = patience
	}
	if pc.ConnConfig.ConnectTimeout == 0 {
		pc.ConnConfig.ConnectTimeout = c.Patience
	}
	pc.ConnConfig.DialFunc = dialer(pc.ConnConfig.ConnectTimeout).DialContext
	if c.Pooled {
		pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	pc.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		if c.Pooled {
			// Without a prepared statement the server does not report the types of
			// parameters, and pgx does not know this type by itself.
			conn.TypeMap().RegisterDefaultPgType([]uuid.UUID{}, "_uuid")
		}
		if c.Connected != nil {
			c.Connected()
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("database pool: %w", err)
	}
	db := &DB{pool: pool, role: c.Role, shares: newShares(pool.Config().MaxConns), patience: c.Patience, acquireWait: cmp.Or(c.AcquireWait, acquireWait), lockWait: cmp.Or(c.LockWait, lockWait),
		searches: newSearches(pool.Config().MaxConns), pooled: c.Pooled}
	if db.river, err = db.NewQueueClient(river.Config{FetchCooldown: notifyEvery, Middleware: c.JobMiddleware}, Reserve{}); err != nil {
		pool.Close()
		return nil, err
	}
	return db, nil
}

// Close waits for the connections in use and closes all.
func (db *DB) Close() { db.pool.Close() }

// Pool returns the connections, for a worker's own River client.
func (db *DB) Pool() *pgxpool.Pool { return db.pool }

// Ready reports whether the database is usable: reachable, writable, migrated to this
// release, and with a login that cannot bypass row level security and may do what this
// process does, not what the other one does. The error,
// fault.Unavailable, says which condition fails, and is safe to publish: it names settings
// but not addresses.
func (db *DB) Ready(ctx context.Context) error {
	var user string
	var roles []string // of GatewayRole and WorkerRole, whose rights it has
	var version int
	var super, bypass, readOnly bool
	ctx, cancel := context.WithTimeout(ctx, db.patience)
	defer cancel()
	err := db.pool.QueryRow(ctx, `
		SELECT rolname, rolsuper, rolbypassrls, current_setting('transaction_read_only') = 'on' OR pg_is_in_recovery(),
		       (SELECT coalesce(max(version), 0) FROM nofx.schema_migration),
		       ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.rolname = ANY ($1) AND pg_has_role(r.oid, 'USAGE'))
		FROM pg_roles WHERE rolname = current_user`, []string{GatewayRole, WorkerRole}).Scan(&user, &super, &bypass, &readOnly, &version, &roles)
	switch {
	case errors.Is(err, context.Canceled) || isForgetful(err):
		return mapError(err)
	case err != nil:
		return fault.New(fault.Unavailable, "unavailable", "the database is not available: %s", plainly(err)).Because(err)
	case super || bypass:
		return fault.New(fault.Unavailable, "unavailable", "role %s bypasses row level security; log in as %s", user, db.login())
	case db.role != "" && !slices.Equal(roles, []string{db.role}):
		return fault.New(fault.Unavailable, "unavailable", "role %s has not the rights of %s, or has more; log in as %s", user, db.role, db.login())
	case readOnly:
		return fault.New(fault.Unavailable, "unavailable", "the database is read-only")
	case version < migrations.Latest():
		return fault.New(fault.Unavailable, "unavailable", "the database is at migration %d, this release needs %d; run migrate", version, migrations.Latest())
	}
	return nil
}

// login returns the role to log in as, for errors.
func (db *DB) login() string { return cmp.Or(db.role, GatewayRole+" or "+WorkerRole) }

type (
	actorKey struct{}
	viaKey   struct{}
	txKey    struct{}
)

// WithActor returns ctx with the actor of the transactions begun under it; events and
// decisions name the actor.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

func actor(ctx context.Context) string {
	a, _ := ctx.Value(actorKey{}).(string)
	return a
}

// WithVia returns ctx with how its actor authenticated, such as api-key, for the audit log.
func WithVia(ctx context.Context, via string) context.Context {
	return context.WithValue(ctx, viaKey{}, via)
}

func via(ctx context.Context) string {
	v, _ := ctx.Value(viaKey{}).(string)
	return v
}

// joined is a transaction that the store's calls under one context share.
type joined struct {
	tx     pgx.Tx
	tenant uuid.UUID
}

// tx runs fn in one transaction of tenant and commits it. A transaction that failed for a
// transient reason is run again, so fn must not keep results of an earlier try. Inside
// [DB.Idempotent] fn joins the transaction already open.
func (db *DB) tx(ctx context.Context, tenant uuid.UUID, fn func(pgx.Tx) error) error {
	return db.in(ctx, tenant, "", fn)
}

// snapshot runs fn in a transaction for reads that must show one moment.
func (db *DB) snapshot(ctx context.Context, tenant uuid.UUID, fn func(pgx.Tx) error) error {
	return db.in(ctx, tenant, " ISOLATION LEVEL REPEATABLE READ READ ONLY", fn)
}

func (db *DB) in(ctx context.Context, tenant uuid.UUID, mode string, fn func(pgx.Tx) error) error {
	if j, ok := ctx.Value(txKey{}).(joined); ok {
		if j.tenant != tenant {
			return fmt.Errorf("transaction of tenant %s used for %s", j.tenant, tenant)
		}
		return mapError(fn(j.tx))
	}
	var err error
	for try := range maxTries {
		if try > 0 {
			if err := sleep(ctx, time.Duration(rand.Int64N(int64(50*time.Millisecond)<<try))); err != nil {
				return mapError(err)
			}
		}
		if err = db.once(ctx, tenant, mode, fn); !passing(err) {
			break
		}
	}
	return mapError(err)
}

func (db *DB) once(ctx context.Context, tenant uuid.UUID, mode string, fn func(pgx.Tx) error) (err error) {
	conn, release, err := db.acquire(ctx, tenant)
	if err != nil {
		return err
	}
	defer release() // a connection that is still inside a transaction is closed
	over := db.limit(conn)
	defer func() { err = over(err) }()
	t := begin(ctx, conn.Conn(), tenant, mode)
	defer func() {
		if err != nil {
			_ = t.Rollback(ctx)
		}
		if dropConn(err) {
			// A server that goes read-only or shuts down does not come back on this connection.
			_ = conn.Conn().Close(context.WithoutCancel(ctx))
		}
	}()
	if err := fn(t); err != nil {
		return err
	}
	return t.Commit(ctx)
}

// across collects the rows of one statement outside every tenant: a call of one
// of the few functions that may look across them.
func across[T any](ctx context.Context, db *DB, scan pgx.RowToFunc[T], sql string, args ...any) (list []T, err error) {
	conn, release, err := db.acquire(ctx, uuid.Nil)
	if err != nil {
		return nil, mapError(err)
	}
	defer release()
	over := db.limit(conn)
	defer func() { err = mapError(over(err)) }()
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	list, err = pgx.CollectRows(rows, scan)
	if dropConn(err) {
		_ = conn.Conn().Close(context.WithoutCancel(ctx))
	}
	return list, err
}

// limit makes operations on conn fail after patience, whatever their context. over ends the
// limit and must be called before conn is released; it returns its argument, or
// fault.Unavailable if the limit was reached.
func (db *DB) limit(conn *pgxpool.Conn) (over func(error) error) {
	raw := conn.Conn().PgConn().Conn()
	timer := time.AfterFunc(db.patience, func() { _ = raw.SetDeadline(time.Now()) })
	return func(err error) error {
		if timer.Stop() {
			return err
		}
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = conn.Conn().Close(ended) // useless now, and no server waits for a goodbye
		if err != nil && connectionLost(err) {
			return unavailable(fmt.Errorf("no answer within %s: %v", db.patience, err)) // no %w: the time for trying again is over
		}
		return err
	}
}

// acquire takes a connection for a transaction of tenant, from the tenant's share, or of no
// tenant; release returns it.
func (db *DB) acquire(ctx context.Context, tenant uuid.UUID) (conn *pgxpool.Conn, release func(), err error) {
	waitCtx, cancel := context.WithTimeout(ctx, db.acquireWait)
	defer cancel()
	leave := func() {}
	if tenant != uuid.Nil {
		leave, err = db.shares.take(waitCtx, tenant)
	}
	if err == nil {
		if conn, err = db.pool.Acquire(waitCtx); err == nil {
			return conn, func() { conn.Release(); leave() }, nil
		}
		leave()
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = unavailable(fmt.Errorf("no connection within %s: %w", db.acquireWait, err))
	}
	return nil, nil, err
}

// traceparent returns ctx's span in W3C form, or "" outside any.
func traceparent(ctx context.Context) string { return spanParent(trace.SpanContextFromContext(ctx)) }

func spanParent(sc trace.SpanContext) string {
	if !sc.IsValid() {
		return ""
	}
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String()
}

// document returns v as a JSON argument: text, because a transaction pooler's mode
// would send bytes as bytea.
func document(v any) (string, error) {
	doc, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("%T as JSON: %w", v, err)
	}
	return string(doc), nil
}

// query is a statement with optional conditions.
type query struct {
	sql  string
	args []any
}

// and adds a condition on value, written as ?, when it is wanted.
func (q *query) and(wanted bool, condition string, value any) {
	if wanted {
		q.end("AND "+condition, value)
	}
}

// arg adds a value and is how the statement names it.
func (q *query) arg(value any) string {
	q.args = append(q.args, value)
	return "$" + strconv.Itoa(len(q.args))
}

// end adds a clause with one value, written as ?.
func (q *query) end(clause string, value any) {
	q.sql += " " + strings.Replace(clause, "?", q.arg(value), 1)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
