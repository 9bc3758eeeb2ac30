// Package audit verifies the chain of an audit log from what the API answers, without
// trusting the database that it comes from: each row's hash is computed again, as
// nofx.audit_hash does in migrations/functions/audit.sql, and the rows are compared with
// the heads that workers have stored beside the database.
package audit
