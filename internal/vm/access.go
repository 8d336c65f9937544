package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/vmm"
)

// noteAccess keeps, beside the VM's sockets, what its guest may reach: the
// configuration may be another one by the time that somebody asks.
func (m *Manager) noteAccess(spec vmm.Spec) error {
	text := "nothing: it has no network"
	if spec.NIC != nil {
		settings, err := m.config.Load()
		if err != nil {
			return err
		}
		text = settings.Network.String()
	}
	if err := os.WriteFile(accessFile(spec.RunDir), []byte(text), 0o600); err != nil {
		return fmt.Errorf("cannot note what the guest may reach: %w", err)
	}
	return nil
}

// access is what noteAccess has kept, empty for a VM that an older bangerd has
// started, or that has just ended.
func access(runDir string) (string, error) {
	text, err := os.ReadFile(accessFile(runDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot read what the guest may reach: %w", err)
	}
	return string(text), nil
}

func accessFile(runDir string) string { return filepath.Join(runDir, "access") }
