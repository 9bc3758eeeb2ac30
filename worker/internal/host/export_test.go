package host

import (
	"context"

	"nofx.dev/shared/postgres"
	"nofx.dev/worker/internal/lease"
	"nofx.dev/worker/internal/storage"
)

func (h *Host) ID() string                   { return h.id }
func (h *Host) Leases() *lease.Keeper        { return h.leases }
func (h *Host) Storage() *storage.Watch      { return h.storage }
func (h *Host) River() *postgres.QueueClient { return h.river }
func (h *Host) Beat(ctx context.Context)     { h.beacon.beat(ctx) }
