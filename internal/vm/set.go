package vm

import (
	"context"
	"fmt"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/progress"
	"banger/internal/size"
	"banger/internal/store"
)

// Set changes a VM's sizes and what it runs on; that counts from its next start
// on. A disk only grows.
func (m *Manager) Set(ctx context.Context, ref string, request api.SetVM) (api.VM, error) {
	if err := m.checkVMM(request.VMM); err != nil {
		return api.VM{}, err
	}
	op, err := m.begin(ctx, ref, "set", progress.Discard)
	if err != nil {
		return api.VM{}, err
	}
	defer op.end()
	record := m.look(op.entry).record
	updated := record
	if request.VCPU != 0 {
		updated.VCPU = request.VCPU
	}
	if request.MemoryMiB != 0 {
		updated.MemoryMiB = request.MemoryMiB
	}
	if request.DiskBytes != 0 {
		updated.DiskBytes = request.DiskBytes
	}
	if request.VMM != "" {
		updated.VMM = request.VMM
	}
	host, err := config.ThisHost()
	if err != nil {
		m.log.WarnContext(ctx, "host sizes are not known", "error", err)
	}
	if err := checkSizes(updated.VCPU, updated.MemoryMiB, updated.DiskBytes, host); err != nil {
		return api.VM{}, err
	}
	if updated.DiskBytes < record.DiskBytes {
		return api.VM{}, &api.Error{
			Kind:    api.KindUsage,
			Message: fmt.Sprintf("cannot make the disk of %q smaller: it has %s", record.Name, size.Format(record.DiskBytes)),
			Hint:    "a disk can only grow",
		}
	}
	err = m.change(ctx, op.entry, func(r *store.VM) {
		r.VCPU, r.MemoryMiB, r.DiskBytes, r.VMM = updated.VCPU, updated.MemoryMiB, updated.DiskBytes, updated.VMM
	})
	if err != nil {
		return api.VM{}, m.noSpace(err, fmt.Sprintf("cannot change the VM %q", record.Name))
	}
	return m.show(m.look(op.entry))
}
