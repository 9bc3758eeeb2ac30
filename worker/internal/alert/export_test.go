package alert

import "time"

// Within makes requests of d fail after a time, instead of ten seconds.
func (d *Deliverer) Within(limit time.Duration) { d.limit = limit }
