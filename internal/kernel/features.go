package kernel

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"

	"banger/internal/api"
	"banger/internal/progress"
	"banger/internal/streams"
)

// feature is something that VMs, or what people run in them, need of a kernel.
type feature struct {
	name     string
	required bool
	// needs are options of a kernel's configuration: "OPTION" for what is built
	// in or not there, "OPTION:module" for what may be a module. Of "A|B" one is
	// enough.
	needs string
}

// features has what banger boots with first, then what it does without.
var features = []feature{
	{"virtio devices", true, "VIRTIO_MMIO:virtio_mmio ACPI|VIRTIO_MMIO_CMDLINE_DEVICES"},
	{"disks", true, "VIRTIO_BLK:virtio_blk EXT4_FS:ext4 OVERLAY_FS:overlay"},
	{"network", true, "VIRTIO_NET:virtio_net INET UNIX"},
	{"agent channel", true, "VIRTIO_CONSOLE:virtio_console VIRTIO_VSOCKETS:vmw_vsock_virtio_transport"},
	{"random numbers of the host", true, "HW_RANDOM_VIRTIO:virtio_rng"},
	{"initramfs", true, "BLK_DEV_INITRD BINFMT_ELF DEVTMPFS TMPFS PROC_FS SYSFS"},

	{"serial console", false, "SERIAL_8250_CONSOLE"},
	{"VMGenID", false, "VMGENID:vmgenid"},
	{"systemd", false, "CGROUPS INOTIFY_USER FHANDLE EPOLL SIGNALFD TIMERFD"},
	{"containers", false, "NAMESPACES PID_NS NET_NS IPC_NS UTS_NS USER_NS MEMCG CGROUP_PIDS CPUSETS CFS_BANDWIDTH CGROUP_BPF SECCOMP_FILTER POSIX_MQUEUE KEYS"},
	{"Docker's networks", false, "BRIDGE:bridge VETH:veth BRIDGE_NETFILTER:br_netfilter NF_NAT:nf_nat NETFILTER_XT_MATCH_CONNTRACK:xt_conntrack NETFILTER_XT_MATCH_ADDRTYPE:xt_addrtype NETFILTER_XT_TARGET_MASQUERADE:xt_MASQUERADE NFT_COMPAT:nft_compat|IP_NF_NAT:iptable_nat"},
	{"nftables", false, "NF_TABLES:nf_tables NFT_NAT:nft_nat NFT_MASQ:nft_masq NFT_CT:nft_ct"},
	{"WireGuard", false, "WIREGUARD:wireguard"},
	{"FUSE", false, "FUSE_FS:fuse"},
	{"eBPF", false, "BPF_SYSCALL BPF_JIT DEBUG_INFO_BTF"},
	{"NFS client", false, "NFS_FS:nfs NFS_V4:nfsv4"},
	{"NFS server", false, "NFSD:nfsd"},
	{"TUN/TAP", false, "TUN:tun"},
	{"loop devices", false, "BLK_DEV_LOOP:loop"},
	{"squashfs", false, "SQUASHFS:squashfs"},
}

// checkFeatures tells what a kernel can do. Config is its configuration, nil
// if that is not known: then only what may be a module is told for sure.
func checkFeatures(have moduleSet, config map[string]string) []api.Feature {
	state := func(need string) api.FeatureState {
		option, module, _ := strings.Cut(need, ":")
		switch {
		case config[option] == "y", module != "" && have.has(module):
			return api.FeaturePresent
		case config == nil && module == "":
			return api.FeatureUnknown
		}
		return api.FeatureMissing
	}
	list := make([]api.Feature, 0, len(features))
	for _, f := range features {
		not := make(map[api.FeatureState][]string)
		for need := range strings.FieldsSeq(f.needs) {
			states := make(map[api.FeatureState]bool)
			var options []string
			for one := range strings.SplitSeq(need, "|") {
				option, _, _ := strings.Cut(one, ":")
				states[state(one)], options = true, append(options, "CONFIG_"+option)
			}
			switch all := strings.Join(options, " or "); {
			case states[api.FeaturePresent]:
			case states[api.FeatureUnknown]:
				not[api.FeatureUnknown] = append(not[api.FeatureUnknown], all)
			default:
				not[api.FeatureMissing] = append(not[api.FeatureMissing], all)
			}
		}
		found := api.Feature{Name: f.name, Required: f.required, State: api.FeaturePresent}
		for _, state := range []api.FeatureState{api.FeatureUnknown, api.FeatureMissing} { // the last says more
			if not[state] != nil {
				found.State, found.Options = state, not[state]
			}
		}
		list = append(list, found)
	}
	return list
}

// told is the features in that state, as a text.
func told(list []api.Feature, state api.FeatureState, required bool) string {
	var parts []string
	for _, f := range list {
		if f.State == state && f.Required == required {
			parts = append(parts, fmt.Sprintf("%s (%s)", f.Name, strings.Join(f.Options, ", ")))
		}
	}
	return strings.Join(parts, "; ")
}

// checkRequired refuses a kernel that no VM could boot.
func checkRequired(list []api.Feature) error {
	if lacks := told(list, api.FeatureMissing, true); lacks != "" {
		return &api.Error{
			Kind: api.KindState, Message: "the kernel lacks what VMs boot with: " + lacks,
			Hint: "build it with these options, built in or as modules; a distribution's kernel for clouds or servers has them",
		}
	}
	return nil
}

// warn says what will not work, before somebody runs into it.
func warn(list []api.Feature, report progress.Func) {
	if lacks := told(list, api.FeatureMissing, false); lacks != "" {
		report.Warn("the kernel lacks, and VMs do without: " + lacks)
	}
	for _, f := range list {
		if f.State == api.FeatureUnknown {
			report.Warn("no configuration of the kernel was found: whether it has all that VMs need is not known; 'banger kernel show' has the list")
			return
		}
	}
}

// parseConfig reads a kernel's configuration: the options that are set, of
// which those that are not numbers or texts are "y" or "m".
func parseConfig(data []byte) map[string]string {
	config := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		option, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if name, is := strings.CutPrefix(option, "CONFIG_"); ok && is {
			config[name] = value
		}
	}
	return config
}

// ikconfigBegin is before the configuration in a kernel with CONFIG_IKCONFIG.
const ikconfigBegin = "IKCFG_ST"

// configIn returns the configuration that a kernel has in itself, nil if there
// is none.
func configIn(vmlinux []byte) []byte {
	i := bytes.Index(vmlinux, []byte(ikconfigBegin+"\x1f\x8b")) // where gzip begins; the mark alone is also in code that looks for it
	if i < 0 {
		return nil
	}
	r, err := gzip.NewReader(bytes.NewReader(vmlinux[i+len(ikconfigBegin):]))
	if err != nil {
		return nil
	}
	r.Multistream(false)
	data, err := streams.ReadAll(r, maxSmall)
	if err != nil {
		return nil
	}
	return data
}
