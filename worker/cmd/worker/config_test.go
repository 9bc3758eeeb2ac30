package main

import (
	"slices"
	"strings"
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

func TestStepSecrets(t *testing.T) {
	t.Parallel()
	got := stepSecrets("CI=true\nN=1\nPATH=/usr/local/bin:/usr/bin\nLANG=en_GB.UTF-8\nSHORT=1234567\nTOKEN=12345678\r\nDSN=user=a password=b\nno variable")
	slices.Sort(got)
	if want := "12345678|user=a password=b"; strings.Join(got, "|") != want {
		t.Errorf("stepSecrets() = %q, want %s", got, want)
	}
}
