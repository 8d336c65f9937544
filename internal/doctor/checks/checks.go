package checks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/doctor"
	"banger/internal/network/bridge"
	"banger/internal/network/plan"
	"banger/internal/size"
	"banger/internal/space"
	"banger/internal/ssh"
	"banger/internal/sshconfig"
	"banger/internal/vmm/firecracker"
)

func architecture(context.Context, Deps) []doctor.Row {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return []doctor.Row{fail("architecture", runtime.GOOS+"/"+runtime.GOARCH+" is not supported", "use a Linux machine with an x86-64 processor")}
	}
	return []doctor.Row{pass("architecture", "linux on x86-64")}
}

func configuration(_ context.Context, deps Deps) []doctor.Row {
	path := deps.Dirs.ConfigFile()
	if deps.ConfigErr != nil {
		return []doctor.Row{fail("configuration", deps.ConfigErr.Error(), "correct it, or move the file away: every key has a default")}
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return []doctor.Row{pass("configuration", "defaults: there is no "+path)}
	}
	return []doctor.Row{pass("configuration", path)}
}

func runtimeDirectory(_ context.Context, deps Deps) []doctor.Row {
	if err := deps.Dirs.MakeRuntime(); err != nil {
		return []doctor.Row{fail("runtime directory", err.Error(), "set XDG_RUNTIME_DIR to a private directory of yours with a short path")}
	}
	return []doctor.Row{pass("runtime directory", deps.Dirs.Runtime)}
}

func virtualization(ctx context.Context, deps Deps) []doctor.Row {
	verdict := deps.KVM(ctx)
	if verdict.Working {
		return []doctor.Row{pass("KVM", "it runs guest code at speed")}
	}
	return []doctor.Row{warn("KVM", verdict.Reason+"; VMs are emulated, which works but is slower", verdict.Hint)}
}

// installHint says where a VMM comes from.
func installHint(driver string) string {
	if driver == firecracker.Name {
		return "sudo dnf install firecracker (Fedora); sudo pacman -S firecracker (Arch); elsewhere, as on Debian and Ubuntu, put the program of " +
			"github.com/firecracker-microvm/firecracker/releases in PATH, or set firecracker_bin"
	}
	return "sudo apt-get install qemu-system-x86 (Debian, Ubuntu); sudo dnf install qemu-system-x86-core (Fedora); sudo pacman -S qemu-system-x86 (Arch)"
}

// namespaceHint is for a host where Firecracker runs and has no network.
const namespaceHint = "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns) " +
	"and /dev/net/tun, or connect VMs by a bridge; until then VMs run on QEMU"

// drivers makes a row for each VMM. One that works is enough, unless the
// configuration names another.
func drivers(ctx context.Context, deps Deps) []doctor.Row {
	var rows []doctor.Row
	usable := false
	for _, driver := range deps.Drivers {
		name := driver.Name()
		found := driver.Probe(ctx)
		wanted := deps.Config.VMM == "auto" || deps.Config.VMM == name
		if !found.Usable {
			row := warn("VMM "+name, "not usable: "+strings.Join(found.Reasons, "; "), installHint(name))
			if deps.Config.VMM == name {
				row.Status, row.Hint = doctor.Fail, "install it, or set vmm = \"auto\" in "+deps.Dirs.ConfigFile()
			}
			rows = append(rows, row)
			continue
		}
		usable = usable || wanted
		how := "with KVM"
		if !found.Accelerated {
			how = "by emulation"
		}
		detail := fmt.Sprintf("%s %s, %s", found.Binary, found.Version, how)
		if name == firecracker.Name {
			detail += fmt.Sprintf(" (%s and newer should work, %s is tested)", firecracker.Oldest, firecracker.Tested)
		}
		switch {
		case found.Accelerated && len(found.Reasons) > 0:
			rows = append(rows, warn("VMM "+name, detail+": "+strings.Join(found.Reasons, "; "), namespaceHint))
		case name == firecracker.Name && firecracker.Before(found.Version, firecracker.Sound):
			rows = append(rows, warn("VMM "+name, detail+": "+firecracker.Advice, installHint(name)))
		default:
			rows = append(rows, pass("VMM "+name, detail))
		}
	}
	if !usable {
		rows = append(rows, fail("VMM", "there is none that VMs could run in", "sudo apt-get install qemu-system-x86"))
	}
	return rows
}

// confinementHints say what to do about layers that are missing.
var confinementHints = map[string]string{
	"files":        "use a kernel of 5.13 or newer with landlock in the list of lsm= on its command line",
	"cgroup":       "loginctl enable-linger, where systemd runs; VMs do without it",
	"system calls": "use a kernel with CONFIG_SECCOMP_FILTER; a container's runtime may have to allow seccomp",
}

// confinement says which layers hold VMMs. A missing one stops nobody, since
// each holds alone, but the user is to know.
func confinement(ctx context.Context, deps Deps) []doctor.Row {
	const check = "confinement"
	layers, err := deps.Confinement(ctx)
	if err != nil {
		row := explain(check, doctor.Fail, err)
		if row.Hint == "" {
			row.Hint = "no VM can start before that works"
		}
		return []doctor.Row{row}
	}
	var on, off, hints []string
	for _, layer := range layers {
		if layer.On {
			on = append(on, layer.Name+" ("+layer.Detail+")")
			continue
		}
		off = append(off, layer.Name+" ("+layer.Detail+")")
		if hint := confinementHints[layer.Name]; hint != "" {
			hints = append(hints, hint)
		}
	}
	detail := "VMMs are confined by " + strings.Join(on, ", ")
	if off == nil {
		return []doctor.Row{pass(check, detail)}
	}
	return []doctor.Row{warn(check, detail+"; not by "+strings.Join(off, ", "), strings.Join(hints, "; "))}
}

// hostTools are the programs that banger runs, beside VMMs and what fetches
// images.
var hostTools = []struct{ name, pkg, why string }{
	{"mke2fs", "e2fsprogs", "makes the disks of VMs"},
	{"ssh", "openssh-client", "opens sessions"},
}

func tools(_ context.Context, deps Deps) []doctor.Row {
	var found []string
	var rows []doctor.Row
	for _, tool := range hostTools {
		if _, err := deps.LookPath(tool.name); err != nil {
			rows = append(rows, fail("host tools", tool.name+" is missing, which "+tool.why, "sudo apt-get install "+tool.pkg))
			continue
		}
		found = append(found, tool.name)
	}
	if rows == nil {
		rows = []doctor.Row{pass("host tools", strings.Join(found, ", "))}
	}
	return rows
}

// fetching fails only where something has to be fetched still.
func fetching(ctx context.Context, deps Deps) []doctor.Row {
	const check = "image building"
	err := deps.CanFetch(ctx)
	if err == nil {
		return []doctor.Row{pass(check, "the tools are there, and so are user namespaces or root")}
	}
	status := doctor.Warn
	if image, imageErr := deps.Image(ctx, deps.Config.DefaultImage); imageErr != nil || !image.Present {
		status = doctor.Fail
	} else if kernel, kernelErr := deps.Kernel(ctx, image.Kernel); kernelErr != nil || !kernel.Present {
		status = doctor.Fail
	}
	return []doctor.Row{explain(check, status, err)}
}

func imageAndKernel(ctx context.Context, deps Deps) []doctor.Row {
	name := deps.Config.DefaultImage
	image, err := deps.Image(ctx, name)
	if err != nil {
		return []doctor.Row{explain("default image", doctor.Fail, err)}
	}
	rows := []doctor.Row{present("default image", name, image.Present, image.Size, "image")}
	kernel, err := deps.Kernel(ctx, image.Kernel)
	if err != nil {
		return append(rows, explain("default kernel", doctor.Fail, err))
	}
	return append(rows, present("default kernel", image.Kernel, kernel.Present, kernel.Size, "kernel"))
}

func present(check, name string, here bool, bytes int64, kind string) doctor.Row {
	if !here {
		return warn(check, name+" is not here yet; the first VM fetches it", "to fetch it now: banger "+kind+" pull "+name)
	}
	return pass(check, name+", "+size.Human(bytes))
}

func database(ctx context.Context, deps Deps) []doctor.Row {
	have, want, err := deps.Schema(ctx)
	switch {
	case err != nil:
		return []doctor.Row{fail("database", err.Error(), "")}
	case have == 0:
		return []doctor.Row{pass("database", "there is none yet")}
	case have < want:
		return []doctor.Row{pass("database", fmt.Sprintf("version %d; it becomes %d when bangerd starts", have, want))}
	default:
		return []doctor.Row{pass("database", fmt.Sprintf("version %d", have))}
	}
}

// Free space below which VMs soon fail, and below which none can start.
const (
	littleSpace = 6 * size.GiB
	noSpace     = 512 * size.MiB
)

func diskSpace(_ context.Context, deps Deps) []doctor.Row {
	free, err := freeSpace(deps.Dirs.State)
	if err != nil {
		return []doctor.Row{fail("disk space", err.Error(), "")}
	}
	detail := fmt.Sprintf("%s free for %s", size.Human(free), deps.Dirs.State)
	hint := "make room, or put the state elsewhere with XDG_STATE_HOME; banger vm prune deletes stopped VMs"
	switch {
	case free < noSpace:
		return []doctor.Row{fail("disk space", detail, hint)}
	case free < littleSpace:
		return []doctor.Row{warn("disk space", detail, hint)}
	default:
		return []doctor.Row{pass("disk space", detail)}
	}
}

// freeSpace is what the user can still write below dir, which need not exist.
func freeSpace(dir string) (int64, error) {
	for {
		free, err := space.Free(dir)
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return free, err
		}
		dir = filepath.Dir(dir)
	}
}

func key(_ context.Context, deps Deps) []doctor.Row {
	path := deps.Config.SSHKeyPath
	err := ssh.CheckKey(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []doctor.Row{pass("ssh key", path+" is made when bangerd starts")}
	case err != nil:
		return []doctor.Row{fail("ssh key", err.Error(), "")}
	default:
		return []doctor.Row{pass("ssh key", path)}
	}
}

func shortcut(_ context.Context, deps Deps) []doctor.Row {
	const check = "ssh shortcut"
	user := filepath.Join(deps.Dirs.Home, ".ssh", "config")
	installed, err := sshconfig.Installed(user, deps.Dirs.SSHConfig())
	if err != nil {
		return []doctor.Row{warn(check, err.Error(), "")}
	}
	if installed {
		return []doctor.Row{pass(check, "ssh NAME.vm works from any terminal")}
	}
	if data, err := os.ReadFile(user); err == nil && strings.Contains(string(data), deps.Dirs.SSHConfig()) {
		return []doctor.Row{pass(check, user+" includes banger's configuration")}
	}
	return []doctor.Row{warn(check, "not set up, so plain ssh does not know NAME.vm; banger vm ssh works without", "banger ssh-config --install")}
}

func network(_ context.Context, deps Deps) []doctor.Row {
	const check = "network"
	user := pass(check, "user mode: guests reach "+deps.Config.Network.String()+", through a process of yours without any privilege; nothing reaches them from outside")
	if deps.Config.NetworkMode == "user" {
		return []doctor.Row{user}
	}
	err := deps.Bridge()
	switch {
	case err == nil:
		return []doctor.Row{pass(check, fmt.Sprintf("bridge mode: guests are on %s, %v, and reach %s; this host reaches them by their addresses", bridge.Name, plan.WithLength(plan.Gateway), deps.Config.Network))}
	case deps.Config.NetworkMode == "bridge":
		return []doctor.Row{explain(check, doctor.Fail, err)}
	case errors.Is(err, bridge.ErrNotSetUp):
		return []doctor.Row{user}
	}
	row := explain(check, doctor.Warn, err)
	row.Detail += "; " + user.Detail
	return []doctor.Row{row}
}

// maxNamed is how many certificates are named.
const maxNamed = 5

// hostEnvironment says what guests get of how this host reaches the network.
func hostEnvironment(ctx context.Context, deps Deps) []doctor.Row {
	const check = "host environment"
	passed := deps.HostEnvironment(ctx)
	var parts []string
	for _, proxy := range passed.Proxies {
		part := proxy.Variable + " " + proxy.Shown
		if proxy.Via != "" {
			part += " (for them at " + proxy.Via + ")"
		}
		parts = append(parts, part)
	}
	if n := len(passed.Certificates); n > 0 {
		var subjects []string
		for _, certificate := range passed.Certificates[:min(n, maxNamed)] {
			subjects = append(subjects, strconv.Quote(certificate.Subject))
		}
		if n > maxNamed {
			subjects = append(subjects, "...")
		}
		noun := "certificates"
		if n == 1 {
			noun = "certificate"
		}
		parts = append(parts, fmt.Sprintf("%d CA %s (%s)", n, noun, strings.Join(subjects, ", ")))
	}
	detail := "guests get " + strings.Join(parts, ", ")
	if parts == nil {
		detail = "guests get no proxy and no CA certificates of this host"
	}
	if len(passed.Warnings) > 0 {
		return []doctor.Row{warn(check, detail+"; "+strings.Join(passed.Warnings, "; "), "choose what is passed with [host_environment] in "+deps.Dirs.ConfigFile())}
	}
	return []doctor.Row{pass(check, detail)}
}

func defaults(_ context.Context, deps Deps) []doctor.Row {
	host, err := config.ThisHost()
	spec := config.Sizes(deps.Config, config.Request{}, host)
	detail := fmt.Sprintf("%d vCPU (%s), %d MiB RAM (%s), %s disk (%s)",
		spec.VCPU, spec.VCPUFrom, spec.MemoryMiB, spec.MemoryFrom, size.Format(spec.DiskBytes), spec.DiskFrom)
	if err != nil {
		return []doctor.Row{warn("VM defaults", detail+"; "+err.Error(), "")}
	}
	return []doctor.Row{pass("VM defaults", detail)}
}

// FindImage picks an image out of what is in the store and in the catalog.
func FindImage(name string, lists ...[]api.Image) (api.Image, error) {
	for _, list := range lists {
		for _, image := range list {
			if image.Name == name {
				return image, nil
			}
		}
	}
	return api.Image{}, &api.Error{
		Kind:    api.KindNotFound,
		Message: fmt.Sprintf("there is no image %q, and none in the catalog", name),
		Hint:    "set default_image_name to an image of: banger image list",
	}
}
