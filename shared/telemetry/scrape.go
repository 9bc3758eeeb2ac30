package telemetry

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The maximum age of a query result about the queue, and the maximum time of the query.
const (
	statsMaxAge  = 10 * time.Second
	statsTimeout = time.Second
)

// QueueStats has the database's counts of work that has not ended. Keys that are missing
// from the maps are zero.
type QueueStats struct {
	Depth     map[string]map[string]int64 // queue, River state: jobs
	OldestAge map[string]time.Duration    // queue: of its oldest available job, since due
	Runs      map[string]int64            // status: runs
}

// CollectQueue exports queue_depth, queue_oldest_available_age_seconds and runs, with
// values from ask when metrics are read. A result is used for 10 s, since there may be many
// replicas and scrapers. While ask fails or takes more than 1 s, the gauges are absent,
// never stale, and queue_stats_up is 0.
func (m *Metrics) CollectQueue(ask func(context.Context) (QueueStats, error)) {
	m.register(m.newQueueCollector(ask))
}

func (m *Metrics) newQueueCollector(ask func(context.Context) (QueueStats, error)) *queueCollector {
	return &queueCollector{
		ask:   ask,
		now:   time.Now,
		depth: m.scraped("queue_depth"),
		age:   m.scraped("queue_oldest_available_age_seconds"),
		runs:  m.scraped("runs"),
		up:    m.scraped("queue_stats_up"),
	}
}

// PoolStats are the connections of a database pool.
type PoolStats struct{ Max, Used, Idle int32 }

// CollectPools exports db_pool_connections, with values by pool from ask when metrics are
// read.
func (m *Metrics) CollectPools(ask func() map[string]PoolStats) {
	m.register(poolCollector{m.scraped("db_pool_connections"), ask})
}

// scrapedGauge makes the samples of a gauge that is computed when it is read.
type scrapedGauge struct {
	desc   *prometheus.Desc
	labels *guard
}

func (m *Metrics) scraped(name string) scrapedGauge {
	row := lookup(name, GaugeType)
	return scrapedGauge{prometheus.NewDesc(Prefix+name, row.Help, row.labelNames(), nil), m.guard(row)}
}

func (g scrapedGauge) sample(v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, v, g.labels.allow(labels)...)
}

type queueCollector struct {
	ask                  func(context.Context) (QueueStats, error)
	now                  func() time.Time
	depth, age, runs, up scrapedGauge

	mu    sync.Mutex // also lets one scrape query for all that wait
	stats QueueStats
	at    time.Time // of stats; zero when there are none
}

func (c *queueCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range []scrapedGauge{c.depth, c.age, c.runs, c.up} {
		ch <- g.desc
	}
}

func (c *queueCollector) Collect(ch chan<- prometheus.Metric) {
	stats, ok := c.current()
	if !ok {
		ch <- c.up.sample(0)
		return
	}
	ch <- c.up.sample(1)
	for _, queue := range queues {
		ch <- c.age.sample(stats.OldestAge[queue].Seconds(), queue)
		for _, state := range jobStates {
			ch <- c.depth.sample(float64(stats.Depth[queue][state]), queue, state)
		}
	}
	for _, status := range liveRunStates {
		ch <- c.runs.sample(float64(stats.Runs[status]), status)
	}
}

func (c *queueCollector) current() (QueueStats, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && c.now().Sub(c.at) < statsMaxAge {
		return c.stats, true
	}
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	stats, err := c.ask(ctx)
	if err != nil || ctx.Err() != nil {
		c.at = time.Time{}
		return QueueStats{}, false
	}
	c.stats, c.at = stats, c.now()
	return stats, true
}

type poolCollector struct {
	gauge scrapedGauge
	ask   func() map[string]PoolStats
}

func (c poolCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.gauge.desc }

func (c poolCollector) Collect(ch chan<- prometheus.Metric) {
	for pool, s := range c.ask() {
		ch <- c.gauge.sample(float64(s.Max), pool, "max")
		ch <- c.gauge.sample(float64(s.Used), pool, "used")
		ch <- c.gauge.sample(float64(s.Idle), pool, "idle")
	}
}
