package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/hostenv"
	"banger/internal/progress"
)

// inherit works out what the guest gets of how this host reaches the network,
// and keeps it beside the VM's sockets: another bangerd may have to configure
// the guest, which does not know the environment of the command.
func (m *Manager) inherit(ctx context.Context, runDir string, environment map[string]string, report progress.Func) (hostenv.Passed, error) {
	if m.config.HostEnvironment == nil {
		return hostenv.Passed{}, nil
	}
	passed, err := m.config.HostEnvironment(ctx, environment)
	if err != nil {
		return hostenv.Passed{}, err
	}
	for _, warning := range passed.Warnings {
		report.Warn(warning)
	}
	data, err := json.Marshal(passed)
	if err != nil {
		return hostenv.Passed{}, err
	}
	if err := os.WriteFile(inheritedFile(runDir), data, 0o600); err != nil {
		return hostenv.Passed{}, fmt.Errorf("cannot keep what the guest inherits: %w", err)
	}
	return passed, nil
}

// inherited is what inherit has kept.
func inherited(runDir string) (passed hostenv.Passed, err error) {
	data, err := os.ReadFile(inheritedFile(runDir))
	if errors.Is(err, fs.ErrNotExist) {
		return passed, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &passed)
	}
	if err != nil {
		return passed, fmt.Errorf("cannot read what the guest inherits: %w", err)
	}
	return passed, nil
}

func inheritedFile(runDir string) string { return filepath.Join(runDir, "inherited.json") }
