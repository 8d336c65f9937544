// Package api is what banger and bangerd say to each other: HTTP/1.1 with JSON
// bodies on a unix socket. It is data only, shared by both sides.
//
//	GET    /v1/daemon                  -> Daemon
//	POST   /v1/daemon/stop             stops bangerd; VMs go on
//	GET    /v1/vms                     -> []VM
//	POST   /v1/vms                     CreateVM -> events, result VM
//	GET    /v1/vms/{ref}               -> VM
//	PATCH  /v1/vms/{ref}               SetVM -> VM
//	DELETE /v1/vms/{ref}               DeleteVM
//	POST   /v1/vms/{ref}/start         StartVM -> events, result VM; returns when the guest's agent is configured
//	POST   /v1/vms/{ref}/stop          StopVM -> events, result VM
//	POST   /v1/vms/{ref}/commit        Commit -> events, result Image
//	POST   /v1/vms/{ref}/kill          -> VM
//	GET    /v1/vms/{ref}/hold          Upgrade: banger-hold; an ephemeral VM is deleted when its last holder is gone
//	GET    /v1/vms/{ref}/agent         Upgrade: banger-agent; then raw bytes of one agent stream
//	GET    /v1/vms/{ref}/logs?source=console|vmm|metrics|network&follow=1  -> plain text
//	GET    /v1/vms/{ref}/ports         -> []Port
//	GET    /v1/vms/{ref}/stats         -> Stats
//	GET    /v1/images                  -> []Image; GET /v1/images/{name}, DELETE /v1/images/{name}
//	POST   /v1/images/pull             Pull -> events, result Image
//	POST   /v1/images/import           ImportImage -> events, result Image
//	POST   /v1/images/register         Register -> events, result Image
//	POST   /v1/images/prune            Prune -> Pruned
//	GET    /v1/kernels[?available=1]   -> []Kernel; GET /v1/kernels/{name}, DELETE /v1/kernels/{name}
//	POST   /v1/kernels/pull            Pull -> events, result Kernel
//
// "events" is a stream of newline-delimited [Event]s that ends with one that
// has a Result or an Error; when the client goes away before that, the
// operation is canceled and undone. {ref} is a name, an id or a unique prefix
// of an id. Errors have a status of 400 or more and an [Error] as body.
package api

import (
	"encoding/json"
	"time"

	"banger/internal/agent/wire"
	"banger/internal/progress"
	"banger/internal/vmm"
)

// Kind classifies an error so that a caller can act on it.
type Kind string

// Kinds of errors.
const (
	KindInternal  Kind = "internal"
	KindUsage     Kind = "usage"     // the request makes no sense: exit status 2
	KindNotFound  Kind = "not_found" // no such VM, image or kernel
	KindAmbiguous Kind = "ambiguous" // a prefix that fits several
	KindExists    Kind = "exists"
	KindState     Kind = "state" // the VM is not in a state for this
	KindInUse     Kind = "in_use"
	KindNoSpace   Kind = "no_space"
	KindCanceled  Kind = "canceled"
)

// Error is what went wrong, as told to the user: Message without a final dot,
// Hint (may be empty) what to do about it.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Event is one line of a stream of events.
type Event struct {
	Progress *progress.Event `json:"progress,omitempty"`
	Error    *Error          `json:"error,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

// Daemon says who answers on the socket.
type Daemon struct {
	Version string `json:"version"`
	// Build identifies the binary exactly: a CLI of another build restarts
	// the daemon.
	Build   string    `json:"build"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Socket  string    `json:"socket"`
	VMs     int       `json:"vms"`
}

// State of a VM as observed.
type State string

// States. A VM is Running when its guest's agent was configured.
const (
	StateStopped  State = "stopped"
	StateStarting State = "starting"
	StateRunning  State = "running"
	StateStopping State = "stopping"
	StateDeleting State = "deleting"
)

// VM is one virtual machine.
type VM struct {
	ID    string `json:"id"` // 12 hex digits
	Name  string `json:"name"`
	State State  `json:"state"`
	Image string `json:"image"`
	// ImageDigest is what Image was when the VM was made.
	ImageDigest string `json:"image_digest"`
	Kernel      string `json:"kernel"`
	VCPU        int    `json:"vcpu"`
	MemoryMiB   int    `json:"memory_mib"`
	DiskBytes   int64  `json:"disk_bytes"` // size of the work disk
	Address     string `json:"address"`
	// Loopback is the address of this host that leads to the guest while it
	// runs.
	Loopback string `json:"loopback,omitempty"`
	// OnHost is what NAME.vm means on this host, while the VM runs: Address
	// if it is on the bridge, else Loopback.
	OnHost  string    `json:"on_host,omitempty"`
	MAC     string    `json:"mac"`
	Created time.Time `json:"created"`
	// Ephemeral VMs (--rm) are deleted when nobody holds them any more. One
	// whose start fails is kept, and is not ephemeral from then on: its logs
	// say why.
	Ephemeral bool `json:"ephemeral,omitempty"`
	// Started, VMM and VMMReason, why it is that one, are set while a VMM runs.
	Started   *time.Time  `json:"started,omitempty"`
	VMM       *vmm.Handle `json:"vmm,omitempty"`
	VMMReason string      `json:"vmm_reason,omitempty"`
	// VMMChoice is what the VM is to run on, as in [CreateVM].
	VMMChoice string `json:"vmm_choice,omitempty"`
	// NetworkAccess is what the guest may reach, in words, as long as it runs.
	NetworkAccess string `json:"network_access,omitempty"`
	// DiskUsed is what the VM's own files take on the host, in bytes.
	DiskUsed int64 `json:"disk_used"`
	// LastError is why the last start failed, empty after one that worked.
	LastError string `json:"last_error,omitempty"`
	Dir       string `json:"dir"`
}

// Sizing fields that are zero are taken from the configuration or the host.

// CreateVM asks for a new VM.
type CreateVM struct {
	Name  string `json:"name,omitempty"`
	Image string `json:"image,omitempty"`
	// Kernel is what it boots, empty for what the image wants.
	Kernel    string `json:"kernel,omitempty"`
	VCPU      int    `json:"vcpu,omitempty"`
	MemoryMiB int    `json:"memory_mib,omitempty"`
	DiskBytes int64  `json:"disk_bytes,omitempty"`
	// VMM is what the VM runs on, now and later: "firecracker", "qemu", or
	// "auto" for the best that works on the host; empty leaves that to the
	// configuration.
	VMM       string `json:"vmm,omitempty"`
	Start     bool   `json:"start"`
	Ephemeral bool   `json:"ephemeral,omitempty"`
	// Clean VMs get none of the files of file_sync: what is made of them is for
	// others.
	Clean bool `json:"clean,omitempty"`
	// Environment is as in [StartVM].
	Environment map[string]string `json:"environment,omitempty"`
}

// StartVM starts a VM. VMM, if it is not empty, is what it runs on from now on,
// as in [CreateVM].
type StartVM struct {
	VMM string `json:"vmm,omitempty"`
	// Environment has the variables of the caller that tell how this host
	// reaches the network, as hostenv.Select picks them. It may have secrets.
	Environment map[string]string `json:"environment,omitempty"`
}

// SetVM changes a VM's sizes, and what it runs on; zero leaves as is. Applied at
// the next start. A disk can only grow.
type SetVM struct {
	VCPU      int   `json:"vcpu,omitempty"`
	MemoryMiB int   `json:"memory_mib,omitempty"`
	DiskBytes int64 `json:"disk_bytes,omitempty"`
	// VMM is as in [CreateVM].
	VMM string `json:"vmm,omitempty"`
}

// StopVM asks for a clean stop. TimeoutSeconds bounds the wait before the VM is
// killed; zero means the default.
type StopVM struct {
	TimeoutSeconds int `json:"timeout_seconds,omitempty"`
}

// DeleteVM deletes a VM and its disks. A running VM is refused without Force.
type DeleteVM struct {
	Force bool `json:"force,omitempty"`
}

// Port is a TCP port that something in a guest listens on, with how this host
// gets there.
type Port struct {
	wire.Port
	// Host is an address and port of this host that lead to it, empty if
	// nothing does: Error says why.
	Host string `json:"host,omitempty"`
	URL  string `json:"url,omitempty"`
	// Elsewhere is why Host has another port than the guest's.
	Elsewhere string `json:"elsewhere,omitempty"`
	Error     string `json:"error,omitempty"`
}

// Stats is what a running VM uses. VMM figures are the host's view.
type Stats struct {
	VM            string     `json:"vm"`
	Guest         wire.Stats `json:"guest"`
	HostMemory    int64      `json:"host_memory"`      // bytes resident
	HostCPUSecond float64    `json:"host_cpu_seconds"` // since the VMM's start
}

// Image is an image in the store, or one of the catalog that could be.
type Image struct {
	Name        string    `json:"name"`
	Present     bool      `json:"present"`
	Digest      string    `json:"digest,omitempty"`
	Size        int64     `json:"size,omitempty"` // bytes on disk
	Created     time.Time `json:"created,omitzero"`
	Kernel      string    `json:"kernel,omitempty"` // default kernel
	Description string    `json:"description,omitempty"`
	// Source says where it came from: suite, packages' versions, digests.
	Source map[string]string `json:"source,omitempty"`
	// Notes are what the user should know: something that could not be had.
	Notes []string `json:"notes,omitempty"`
	// Init is the path of the image's init, empty if it has none.
	Init string `json:"init,omitempty"`
	// Container is set for what was made for containers.
	Container *ContainerConfig `json:"container,omitempty"`
	// Origin is the catalog that has it, for one that could be pulled.
	Origin string `json:"origin,omitempty"`
	// Received is how an image in a bundle came to this host.
	Received *Received `json:"received,omitempty"`
	// Usage is told of one image, not of those in lists.
	Usage *ImageUsage `json:"usage,omitempty"`
	// VMs that use it, by name.
	UsedBy []string `json:"used_by,omitempty"`
}

// Received is how what others have made came to this host.
type Received struct {
	From string `json:"from"` // a path or URL
	// SignedBy is the trusted key that has signed it, as in files of ssh; empty
	// if no signature was asked for.
	SignedBy string `json:"signed_by,omitempty"`
}

// ImageUsage is what an image in the store takes on the disk, in bytes.
type ImageUsage struct {
	// Private would be free without the image. Shared is the rest of its size:
	// images with the same digest, other links to its files, and files of the
	// same blocks (reflinks) have that too.
	Private int64 `json:"private"`
	Shared  int64 `json:"shared"`
	// SharedWith are the images with the same digest.
	SharedWith []string `json:"shared_with,omitempty"`
	// VMs is what the VMs of the image have on disks of their own. All of them
	// read the image's.
	VMs int64 `json:"vms"`
}

// Kernel is a kernel in the store, or one of the catalog that could be.
type Kernel struct {
	Name        string            `json:"name"`
	Present     bool              `json:"present"`
	Digest      string            `json:"digest,omitempty"`
	Version     string            `json:"version,omitempty"` // uname -r
	Size        int64             `json:"size,omitempty"`
	Created     time.Time         `json:"created,omitzero"`
	Description string            `json:"description,omitempty"`
	Source      map[string]string `json:"source,omitempty"`
	Origin      string            `json:"origin,omitempty"` // as in [Image]
	UsedBy      []string          `json:"used_by,omitempty"`
	// Received is how a kernel in a bundle came to this host.
	Received *Received `json:"received,omitempty"`
	// Features are empty for what was put in the store by a banger that did
	// not look at them.
	Features []Feature `json:"features,omitempty"`
}

// Feature is something that VMs need of a kernel, or what is run in them.
type Feature struct {
	Name string `json:"name"`
	// Required is what no VM boots without.
	Required bool         `json:"required,omitempty"`
	State    FeatureState `json:"state"`
	// Options of the kernel's configuration are those that are missing, or not
	// known.
	Options []string `json:"options,omitempty"`
}

// FeatureState tells whether a kernel has a [Feature].
type FeatureState string

// States of a feature.
const (
	FeaturePresent FeatureState = "present"
	FeatureMissing FeatureState = "missing"
	FeatureUnknown FeatureState = "unknown"
)

// ContainerConfig is what a container image says about its programs.
type ContainerConfig struct {
	Env        []string `json:"env,omitempty"`
	User       string   `json:"user,omitempty"`
	WorkingDir string   `json:"working_dir,omitempty"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
}

// Pull asks for an image or kernel of the catalog, for a bundle at a URL, or
// for an image in a registry: then Name is the URL or reference.
type Pull struct {
	Name string `json:"name"`
	// As is what the image or kernel is called, if not as the catalog or the
	// bundle says, or after the reference.
	As string `json:"as,omitempty"`
	// Insecure allows a server without TLS.
	Insecure bool `json:"insecure,omitempty"`
	// Untrusted takes a bundle whoever has made it.
	Untrusted bool `json:"untrusted,omitempty"`
}

// Import makes an image or kernel of a file or directory on the host.
type Import struct {
	Path string `json:"path"` // absolute
	Name string `json:"name,omitempty"`
	// Modules and Config, absolute paths too, are what goes with a kernel whose
	// image is Path, if they are not where such things are installed.
	Modules string `json:"modules,omitempty"`
	Config  string `json:"config,omitempty"`
	// Untrusted takes a bundle whoever has made it.
	Untrusted bool `json:"untrusted,omitempty"`
}

// Register makes an image of a root file system on the host.
type Register struct {
	Name string `json:"name"`
	// RootFS is the absolute path of a file with an ext4, or of a directory.
	RootFS string `json:"rootfs"`
	// Kernel is what the image boots, empty for the usual one.
	Kernel string `json:"kernel,omitempty"`
}

// Commit makes an image of a VM's disk.
type Commit struct {
	Name string `json:"name"` // of the image
	// Container, if set, is a container image of the VM's Docker engine, which
	// is taken in place of the disk. The VM must run.
	Container string `json:"container,omitempty"`
	// Description is of the image, and Source what is added to what is told of
	// where it comes from.
	Description string            `json:"description,omitempty"`
	Source      map[string]string `json:"source,omitempty"`
}

// Export packs an image or kernel into a file.
type Export struct {
	// Path is absolute. If it is a directory the file's name is made of what
	// is in it.
	Path string `json:"path"`
}

// Exported is what was packed.
type Exported struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	Digest string `json:"digest"` // of the image or kernel
	Size   int64  `json:"size"`   // of the file, in bytes
	// Signed is what a signature of the bundle has to be of.
	Signed string `json:"signed"`
	// Signature is the signature's file, if the bundle was signed.
	Signature string `json:"signature,omitempty"`
}

// Prune asks for the removal of what can be fetched again.
type Prune struct {
	DryRun bool `json:"dry_run,omitempty"`
}

// Pruned is what was removed, or would be.
type Pruned struct {
	Layers int   `json:"layers"` // downloaded ones, finished or not
	Bytes  int64 `json:"bytes"`
}
