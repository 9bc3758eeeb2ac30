// Package stream brings events to readers while they happen.
//
// There is one tailer per process, not one per reader ([Hub.Run]): it asks which
// of the runs that somebody reads have new events, reads those once, encodes each
// event once and keeps the newest of them in a ring per topic (topic.go). A reader
// ([Hub.Serve]) first replays from the database, page by page, until it has caught
// up, and then takes from the ring. One that falls out of the ring goes back to
// the database, so that the ring is the only queue and a slow reader costs nobody
// memory; one that does not catch up again loses its connection, never an event,
// since every frame carries the cursor to come back with.
//
// The poll is the guarantee: nothing here waits for a notification to arrive.
//
// [Conn] is the wire: frames, keep-alives, deadlines and the reasons for which a
// stream ends. It also serves streams that are not of events (logs).
//
// The rules are those of OBSERVABILITY.md §4.
package stream
