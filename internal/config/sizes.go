package config

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"banger/internal/size"
)

// Request is the sizes somebody asked for; zero fields ask for nothing.
type Request struct {
	VCPU      int
	MemoryMiB int
	DiskBytes int64
}

// Host is what sizes are derived from. Zero fields are not known.
type Host struct {
	CPUs        int
	MemoryBytes int64
}

// Source says where a size came from.
type Source string

// Sources, strongest first.
const (
	FromFlag    Source = "flag"
	FromConfig  Source = "config"
	FromHost    Source = "host"
	FromBuiltIn Source = "built-in"
)

// Spec is the sizes a VM gets, each with its source.
type Spec struct {
	VCPU       int
	VCPUFrom   Source
	MemoryMiB  int
	MemoryFrom Source
	DiskBytes  int64
	DiskFrom   Source
}

// String is what the CLI shows after "spec:".
func (s Spec) String() string {
	return fmt.Sprintf("%d vCPU, %s RAM, %s disk", s.VCPU, size.Format(int64(s.MemoryMiB)*size.MiB), size.Format(s.DiskBytes))
}

// Built-in values: where the host is not known or too small to derive from.
const (
	builtInVCPU      = 1
	builtInMemoryMiB = 512
	builtInDisk      = 8 * size.GiB

	maxHostVCPU      = 4
	maxHostMemoryMiB = 8192
)

// Limits of what a VM can have.
const (
	MaxVCPU      = 32
	MinMemoryMiB = 128
	MaxMemoryMiB = 1 << 20
	MinDisk      = 64 * size.MiB
	MaxDisk      = 16 * size.TiB
)

// Sizes works out each size: the flag, else the configuration, else derived
// from the host, else built in. It is a pure function.
func Sizes(config Config, flags Request, host Host) Spec {
	var spec Spec
	spec.VCPU, spec.VCPUFrom = pick(flags.VCPU, config.VMDefaults.VCPU, hostVCPU(host), builtInVCPU)
	spec.MemoryMiB, spec.MemoryFrom = pick(flags.MemoryMiB, config.VMDefaults.MemoryMiB, hostMemory(host), builtInMemoryMiB)
	spec.DiskBytes, spec.DiskFrom = pick(flags.DiskBytes, config.VMDefaults.DiskBytes, 0, builtInDisk)
	return spec
}

func pick[N int | int64](flag, config, host, builtIn N) (N, Source) {
	switch {
	case flag != 0:
		return flag, FromFlag
	case config != 0:
		return config, FromConfig
	case host != 0:
		return host, FromHost
	default:
		return builtIn, FromBuiltIn
	}
}

func hostVCPU(host Host) int {
	if host.CPUs <= 0 {
		return 0
	}
	return min(max(host.CPUs/4, 1), maxHostVCPU)
}

func hostMemory(host Host) int {
	mib := int(min(host.MemoryBytes/8/size.MiB, maxHostMemoryMiB))
	if mib < builtInMemoryMiB {
		return 0
	}
	return mib
}

// CheckVCPU says whether a VM can have that many CPUs.
func CheckVCPU(n int) error {
	if n < 1 || n > MaxVCPU {
		return fmt.Errorf("%d vCPU is out of range: 1 to %d", n, MaxVCPU)
	}
	return nil
}

// CheckMemory says whether a VM can have that much memory.
func CheckMemory(mib int) error {
	if mib < MinMemoryMiB || mib > MaxMemoryMiB {
		return fmt.Errorf("%d MiB of memory is out of range: %d MiB to %d MiB", mib, MinMemoryMiB, MaxMemoryMiB)
	}
	return nil
}

// CheckDisk says whether a VM can have a work disk of that size.
func CheckDisk(bytes int64) error {
	if bytes < MinDisk || bytes > MaxDisk {
		return fmt.Errorf("a disk of %s is out of range: %s to %s", size.Format(bytes), size.Format(MinDisk), size.Format(MaxDisk))
	}
	return nil
}

// ThisHost looks at the machine. A field that could not be found is zero, and
// the error says why.
func ThisHost() (Host, error) {
	host := Host{CPUs: runtime.NumCPU()}
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return host, fmt.Errorf("cannot find the host's memory: %w", err)
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		rest, ok := strings.CutPrefix(scanner.Text(), "MemTotal:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return host, fmt.Errorf("cannot read the host's memory: %w", err)
		}
		host.MemoryBytes = kib * size.KiB
		return host, nil
	}
	return host, errors.Join(errors.New("cannot find the host's memory in /proc/meminfo"), scanner.Err())
}
