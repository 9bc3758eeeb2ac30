// Package postgres is the store that gateway and worker share: one method per
// thing that happens to a noun, its SQL inside.
//
// Two rules hold everywhere. The only way to a query is [DB.tx], which opens a
// transaction and first of all sets its tenant, so that row level security
// answers no rows to whoever forgets; methods that must look across tenants
// call one of the few SECURITY DEFINER functions of migrations/functions, in tenant.sql, sweep.sql,
// worker.sql and queue.sql.
// And no method writes a state: it calls the function of that machine, which
// refuses what the table of transitions does not list.
//
// A method that may ready steps enqueues their River jobs in the same
// transaction ([DB.enqueueReady]): delivery and truth commit together.
//
// Driver errors stop here: errors.go turns them into kinds of package fault.
// Start at db.go, then step.go.
package postgres
