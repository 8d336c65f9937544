package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"banger/internal/config"
	"banger/internal/size"
)

// sizeFlag is a flag that takes a size in bytes; bare numbers are MiB.
type sizeFlag struct {
	bytes *int64
	check func(bytes int64) error
}

func (f sizeFlag) String() string {
	if f.bytes == nil || *f.bytes == 0 {
		return ""
	}
	return size.Format(*f.bytes)
}

func (f sizeFlag) Set(value string) error {
	bytes, err := size.Parse(value)
	if err != nil {
		return err
	}
	if err := f.check(bytes); err != nil {
		return err
	}
	*f.bytes = bytes
	return nil
}

func (f sizeFlag) Type() string { return "SIZE" }

// textFlag is a text that is checked.
type textFlag struct {
	to    *string
	check func(string) error
}

func (f textFlag) String() string {
	if f.to == nil {
		return ""
	}
	return *f.to
}

func (f textFlag) Set(value string) error {
	if err := f.check(value); err != nil {
		return err
	}
	*f.to = value
	return nil
}

func (f textFlag) Type() string { return "string" }

// countFlag is a number of CPUs.
type countFlag struct{ to *int }

func (f countFlag) String() string {
	if f.to == nil || *f.to == 0 {
		return ""
	}
	return strconv.Itoa(*f.to)
}

func (f countFlag) Set(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("%q is not a number", value)
	}
	if err := config.CheckVCPU(n); err != nil {
		return err
	}
	*f.to = n
	return nil
}

func (f countFlag) Type() string { return "N" }

// sizing are the flags that size a VM.
type sizing struct {
	vcpu         int
	memory, disk int64 // bytes
}

func (s *sizing) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var(countFlag{&s.vcpu}, "vcpu", fmt.Sprintf("number of CPUs, 1 to %d", config.MaxVCPU))
	flags.Var(sizeFlag{&s.memory, checkMemory}, "memory", "memory: 512M, 4G, 4GiB; a bare number is MiB")
	flags.Var(sizeFlag{&s.disk, config.CheckDisk}, "disk-size", "size of the work disk at /root: 512M, 20G")
	for _, name := range []string{"vcpu", "memory", "disk-size"} {
		completeFlag(cmd, name, cobra.NoFileCompletions)
	}
}

func checkMemory(bytes int64) error {
	if bytes%size.MiB != 0 {
		return fmt.Errorf("%s of memory is not a whole number of MiB", size.Format(bytes))
	}
	return config.CheckMemory(int(bytes / size.MiB))
}

func (s *sizing) request() config.Request {
	return config.Request{VCPU: s.vcpu, MemoryMiB: int(s.memory / size.MiB), DiskBytes: s.disk}
}

// spec works out what a VM will get.
func (a *app) spec(s sizing) (config.Spec, error) {
	settings, err := a.config()
	if err != nil {
		return config.Spec{}, err
	}
	// A host that cannot be looked at leaves zeros, and those the built-in
	// sizes.
	host, err := config.ThisHost()
	if err != nil {
		a.warn("%v", err)
	}
	return config.Sizes(settings, s.request(), host), nil
}
