// Package alert delivers events to the endpoints of tenants, by requests that are signed as
// Standard Webhooks say.
//
// The deliveries are rows that the database writes together with their events. Every worker
// has a [Deliverer], which claims those that are due and sends them, several at once, and of
// one endpoint only a few, so that a slow receiver delays nobody else. A claim has a lease: what
// a dead worker had is sent again by another, under the same id, by which receivers know it.
// What an attempt comes to, and when the next one is due, is decided here; what that means for
// delivery and endpoint is in migrations/functions/alert.sql.
//
// Requests are made by package egress: to addresses of the public internet, and to what the
// administrator has listed. Redirects are not followed. The URL of an endpoint may be a secret
// of its receiver, so that no log has it.
package alert
