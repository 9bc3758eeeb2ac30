package main

import (
	"slices"
	"testing"

	"nofx.dev/shared/config"
)

func TestSettingsAreKnownToOtherProcesses(t *testing.T) {
	t.Parallel()
	common := config.Settings[config.Common]()
	for _, s := range config.Settings[settings]() {
		if !slices.Contains(common, s) && !slices.Contains(config.Names, s.Name) {
			t.Errorf("config.Names lacks %s, want every setting of this process in it", s.Name)
		}
	}
}
