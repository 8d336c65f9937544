package lab

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/api"
	"banger/internal/doctor"
)

// scenarios are played one after another, in one host. Each of them works in
// a fresh one, too. What has no VM yet makes one: [scene.box], [scene.tiny].
var scenarios = []scenario{
	{"Contract", 10 * time.Minute, contract},
	{"Doctor", 3 * time.Minute, doctorGreen},
	{"Run", 8 * time.Minute, runShapes},
	{"Session", 8 * time.Minute, session},
	{"Workspace", 8 * time.Minute, workspace},
	{"Names", 8 * time.Minute, names},
	{"Internet", 8 * time.Minute, internet},
	{"StopStart", 8 * time.Minute, stopStart},
	{"KillDaemon", 8 * time.Minute, killDaemon},
	{"KillVMM", 8 * time.Minute, killVMM},
	{"Confined", 8 * time.Minute, confined},
	{"OtherVMM", 10 * time.Minute, otherVMM},
	{"Ten", 10 * time.Minute, ten},
	{"Ends", 8 * time.Minute, ends},
	{"Bridge", 8 * time.Minute, bridge},
	{"NothingLeft", 5 * time.Minute, nothingLeft},
}

// contract has the driver run its contract, with a guest that only halts and
// with one that has an agent, and the table of calls to which the fake is held.
func contract(s *scene) {
	s.tiny()
	state := "/home/" + user + "/.local/state/banger/"
	object := func(kind, digest, part string) string {
		return state + kind + "/objects/" + strings.ReplaceAll(digest, ":", "-") + "/" + part
	}
	image := decode[api.Image](s, "banger image show tiny-1 --json")
	kernel := decode[api.Kernel](s, "banger kernel show "+image.Kernel+" --json")
	out := s.root("cd /root && BANGER_TEST_FIRECRACKER=" + prefix + "/bin/firecracker BANGER_TEST_INITRAMFS=/opt/lab/initramfs" +
		" BANGER_TEST_KERNEL=" + object("kernels", kernel.Digest, "vmlinux") +
		" BANGER_TEST_MODULES=" + object("kernels", kernel.Digest, "modules.ext4") +
		" BANGER_TEST_IMAGE=" + object("images", image.Digest, "root.ext4") +
		" /opt/lab/firecracker.test -test.v -test.run '^TestReal(Guest|Table)?$' -test.timeout 9m")
	for _, test := range []string{"TestReal", "TestRealGuest", "TestRealTable"} {
		s.contains("the tests", out, "--- PASS: "+test+" ")
	}
}

// doctorGreen has no failure, and no warning but that this Firecracker is old.
func doctorGreen(s *scene) {
	s.must("banger ssh-config --install")
	s.resolve()
	for _, row := range decode[[]doctor.Row](s, "banger doctor --json") {
		old := row.Check == "VMM firecracker" && strings.Contains(row.Detail, "1.16.1")
		if row.Status != doctor.Pass && !old {
			s.fail("%s: %s: %s", row.Check, row.Status, row.Detail)
		}
		if row.Check == "KVM" {
			s.contains("KVM", row.Detail, "at speed")
		}
	}
	s.must("banger doctor")
}

// resolve has the host's resolver ask bangerd for NAME.vm, as
// docs/dns-routing.md says.
func (s *scene) resolve() {
	s.t.Helper()
	s.root("mkdir -p /etc/systemd/resolved.conf.d\n" +
		"printf '[Resolve]\\nDNS=127.0.0.1:42069\\nDomains=~vm\\n' >/etc/systemd/resolved.conf.d/banger.conf\n" +
		"systemctl restart systemd-resolved")
}

// names asks the host's resolver for a VM.
func names(s *scene) {
	vm := s.box()
	s.resolve()
	s.equal("the resolver's answer", s.must("getent ahostsv4 box.vm | sed -n 's/ .*STREAM.*//p'"), vm.Loopback)
	s.must("banger vm exec box -- sh -c 'echo served >/srv/index; setsid -f python3 -m http.server -d /srv 3000 >/dev/null 2>&1'")
	s.equal("what the guest serves", s.eventually("curl -sSf --max-time 10 http://box.vm:3000/index"), "served")
}

// internet is reached by a guest, and what is the host's is not.
func internet(s *scene) {
	s.box()
	fetch := "banger vm exec box -- curl -sS --max-time 20 http://"
	s.equal("the internet", s.must(fetch+world+"/"), "the world")
	s.status(7, fetch+gateway+"/") // could not connect
}

func runShapes(s *scene) {
	before := s.must("banger vm list -q")
	r := s.status(7, "banger vm run --rm -- sh -c 'echo out; echo err >&2; exit 7'")
	s.equal("stdout", r.stdout, "out")
	s.contains("stderr", r.stderr, "\nerr\n")
	s.equal("VMs", s.must("banger vm list -q"), strings.TrimSpace(before))
	s.box()
	// systemd comes up while commands run already.
	s.equal("the guest", s.must(`for i in $(seq 60); do state=$(banger vm exec box -- systemctl is-system-running --wait 2>&1 </dev/null) && break; sleep 1; done; echo "$state"`), "running")
	s.equal("its name over ssh", s.must("banger vm ssh box -- hostname"), "box")
	s.status(127, "banger vm exec box -- no-such-program")
	s.status(126, "banger vm exec box -- /etc/passwd")
	s.status(137, "banger vm exec box -- sh -c 'kill -KILL $$'")
	r = s.user("banger vm exec box -- sh -c 'cat; echo of >&2; exit 3'", "through\n")
	s.equal("stdout", r.stdout, "through")
	s.equal("stderr", r.stderr, "of")
	s.equal("status", strconv.Itoa(r.code), "3")
}

// session opens one on a terminal, as a person does.
func session(s *scene) {
	r := s.user(`(sleep 1; echo 'tty; echo in-$((40+2)); exit 3') | script -qec "banger vm run --rm" /dev/null`, "")
	s.equal("status", strconv.Itoa(r.code), "3")
	s.contains("the session", r.stdout, "/dev/pts/")
	s.contains("the session", r.stdout, "in-42")
}

func workspace(s *scene) {
	s.must(`rm -rf work && git init -q -b main work && cd work && echo one >file && git add file &&
		git -c user.name=lab -c user.email=lab@example.org commit -qm first && echo two >file`)
	out := s.must("banger vm run --rm ./work -- sh -c 'pwd; cat file; git log --format=%s; git status --short'")
	s.equal("the workspace", out, "/root/work\ntwo\nfirst\n M file")
}

// box makes the VM that scenarios share run, on Firecracker, which is what
// banger takes here if nobody says otherwise. One that another scenario has
// left in another state is replaced.
func (s *scene) box() api.VM {
	s.t.Helper()
	s.must(`banger vm list --json | jq -e 'any(.[]; .name == "box" and .state == "running" and .vmm.driver == "firecracker")' ||
		{ banger vm delete -f box; banger vm run -d --name box; }`)
	return s.boxOn("firecracker")
}

// boxOn shows the VM that scenarios share, which must run on a VMM.
func (s *scene) boxOn(driver string) api.VM {
	s.t.Helper()
	vm := decode[api.VM](s, "banger vm show box --json")
	if vm.State != api.StateRunning || vm.VMM == nil || vm.VMM.Driver != driver || vm.VMM.Accelerator != "kvm" {
		s.fail("the VM is %s on %+v, want it running on %s with KVM", vm.State, vm.VMM, driver)
	}
	return vm
}

// write writes what kept looks for, on both disks.
func (s *scene) write(text string) {
	s.t.Helper()
	s.must("banger vm exec box -- sh -c 'echo " + text + " | tee /root/kept >/kept'")
}

func (s *scene) kept(text string) {
	s.t.Helper()
	s.equal("what was written", s.must("banger vm exec box -- cat /root/kept /kept"), text+"\n"+text)
}

func stopStart(s *scene) {
	s.box()
	s.write("stop")
	s.must("banger vm stop box")
	s.contains("the list", s.must("banger vm list"), "stopped")
	s.status(1, "banger vm exec box -- true")
	s.must("banger vm start box")
	s.boxOn("firecracker")
	s.kept("stop")
}

func killDaemon(s *scene) {
	before := s.box()
	s.write("daemon")
	s.must("kill -9 $(banger daemon status --json | jq .daemon.pid)")
	after := s.boxOn("firecracker")
	if after.VMM.PID != before.VMM.PID {
		s.fail("the VM runs in process %d, and before in %d", after.VMM.PID, before.VMM.PID)
	}
	s.kept("daemon")
	// The VM is held where it is, and leaves nothing there.
	s.eventually(scopes + " | wc -l | grep -qx 2")
	s.must("banger vm list -q | xargs -r banger vm stop")
	s.eventually(scopes + " | wc -l | grep -qx 1")
	s.eventually("! " + leaves + " | grep -q .")
	s.must("banger vm start box")
}

func killVMM(s *scene) {
	vm := s.box()
	s.write("vmm")
	s.must("banger vm exec box -- sync")
	s.must(fmt.Sprintf("kill -9 %d", vm.VMM.PID))
	s.eventually("banger vm list | grep -q '^box .* stopped'")
	s.must("banger vm start box")
	s.boxOn("firecracker")
	s.kept("vmm")
}

// scopes are what systemd has for bangerd, and leaves the cgroups of VMs there.
const (
	scopes = "systemctl --user list-units --all --plain --no-legend 'banger-*.scope'"
	leaves = "find /sys/fs/cgroup -path '*/banger-*.scope/vm-*' -type d 2>/dev/null"
)

// confined looks at the processes of a VM, as the kernel sees them: each VMM is
// held by all layers that there are, by an ordinary user.
func confined(s *scene) {
	for _, driver := range []string{"firecracker", "qemu"} {
		s.box()
		s.must("banger vm stop box")
		s.must("banger vm start box --vmm " + driver)
		vm := s.boxOn(driver)
		for _, layer := range vm.VMM.Confinement {
			if !layer.On {
				s.fail("%s: the layer %q is off: %s", driver, layer.Name, layer.Detail)
			}
		}
		s.contains("what is shown", s.must("banger vm show box"), "session, privileges, limits, files, system calls, own filter, cgroup")
		status := s.must(fmt.Sprintf("cat /proc/%d/status", vm.VMM.PID))
		for _, line := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t2", "CapEff:\t0000000000000000"} {
			s.contains("the status of "+driver, status, line)
		}
		group := strings.TrimSpace(s.must(fmt.Sprintf("sed -n s/^0:://p /proc/%d/cgroup", vm.VMM.PID)))
		s.contains("its cgroup", group, fmt.Sprintf(".scope/vm-%s-", vm.ID))
		s.equal("its memory", s.must("cat /sys/fs/cgroup"+group+"/memory.max"), strconv.Itoa((vm.MemoryMiB+1024)<<20))
		s.equal("its threads", s.must("cat /sys/fs/cgroup"+group+"/pids.max"), strconv.Itoa(vm.VCPU+256))
		s.must(leaves + " | grep -q /vm-" + vm.ID + "-network-")
		s.must("banger vm stop box")
		s.eventually("! " + leaves + " | grep -q .")
	}
	for _, out := range []string{s.must("/opt/lab/cgroup.test -test.v -test.run TestScope"), s.root("/opt/lab/cgroup.test -test.v -test.run TestScope")} {
		s.contains("a scope and its limits", out, "--- PASS: TestScope ")
	}
	s.must("banger vm start box --vmm firecracker")
}

// otherVMM runs the same VM on QEMU and on Firecracker again.
func otherVMM(s *scene) {
	s.box()
	s.write("firecracker")
	s.must("banger vm stop box")
	s.must("banger vm start box --vmm qemu")
	s.boxOn("qemu")
	s.kept("firecracker")
	s.write("qemu")
	s.must("banger vm stop box")
	s.must("banger vm start box --vmm firecracker")
	s.boxOn("firecracker")
	s.kept("qemu")
}

//go:embed testdata/tiny.sh
var tinyScript string

// tiny imports an image that boots fast and needs little memory.
func (s *scene) tiny() {
	s.t.Helper()
	s.ended(0, "tiny.sh", s.user("banger image show tiny-1 || { mkdir -p tiny && cd tiny && sh -s && banger image import save.tar; }", tinyScript))
}

// ten has ten VMs at once, all usable, all deleted at once.
func ten(s *scene) {
	s.tiny()
	s.must("banger vm list -q | xargs -r banger vm stop")
	// One after another: a guest must answer within a minute, on one CPU.
	s.must(`for i in 0 1 2 3 4 5 6 7 8 9; do banger vm create --name vm$i --image tiny-1 --memory 128M --vcpu 1 </dev/null || exit; done`)
	s.equal("running", s.must(`banger vm list --json | jq '[.[] | select(.state == "running" and .vmm.driver == "firecracker") | .address] | unique | length'`), "10")
	s.equal("processes", s.root("pgrep -cx firecracker"), "10")
	s.must(`for i in 0 1 2 3 4 5 6 7 8 9; do test "$(banger vm exec vm$i -- hostname </dev/null)" = vm$i || exit; done`)
	s.must("banger vm delete -f vm0 vm1 vm2 vm3 vm4 vm5 vm6 vm7 vm8 vm9")
	s.equal("processes", s.root("pgrep -cx firecracker || true"), "0")
}

// hostNetwork prints all that a network of VMs could leave behind.
const hostNetwork = `ip -j link; ip -j addr; ip -j route show table all; ip -j rule; nft list ruleset
sysctl -a 2>/dev/null | grep -E '^net\.ipv[46]\.(ip_forward|conf)|^net\.bridge'
find /etc /usr/local -type f -exec sha256sum {} + | sort -k 2
find /etc /run /usr /var -name '*banger*' -not -path '/run/user/*' | sort`

// bridge has VMs on a bridge of the host, which only root sets up and removes.
func bridge(s *scene) {
	s.tiny()
	before := s.quiet(hostNetwork)
	s.status(1, "banger network setup")
	s.root("banger network setup --taps 4 --user " + user)
	s.must("banger network status")
	s.equal("processes of root", s.root("ps -U root -o args= | grep '[b]angerd' || true"), "")
	// A host that boots has nothing of it but its files, until systemd runs the unit.
	const network = "ip -br link | grep -o '^banger[0-9]*' | sort; nft -s list ruleset"
	made := strings.TrimSpace(s.root(network))
	s.root("for link in $(ip -br link | grep -o '^banger[0-9]*'); do ip link delete $link; done; nft delete table inet banger; nft delete table netdev banger")
	s.equal("the unit", s.root("systemctl is-enabled banger-network.service"), "enabled")
	s.root("systemctl start banger-network.service")
	s.equal("the network after a boot", s.root(network), made)
	s.must("banger network status")
	// VMs are on it from their next start on.
	s.must("banger vm list --json | jq -r '.[] | select(.state == \"running\") | .name' | xargs -r banger vm stop")
	var neighbour string
	for _, driver := range []string{"firecracker", "qemu"} {
		name := "bridge-" + driver
		s.must("banger vm create --image tiny-1 --memory 128M --vcpu 1 --name " + name + " --vmm " + driver)
		s.must("banger vm exec " + name + " -- sh -c 'hostname >/name && httpd -p 8080 -h /'")
		neighbour = decode[api.VM](s, "banger vm show --json "+name).Address + ":8080/name"
		s.equal("what the host fetches", s.eventually("curl -sSf --max-time 20 http://"+neighbour), name)
	}
	s.box()
	fetch := "banger vm exec box -- curl -sS --max-time 20 http://"
	s.equal("the internet", s.must(fetch+world+"/"), "the world")
	s.status(7, fetch+neighbour)
	s.root("busybox httpd -p 8099 -h /etc")
	s.status(7, fetch+"172.16.0.1:8099/hostname")
	s.status(7, fetch+gateway+"/")
	s.root("pkill -f '[h]ttpd -p 8099'")
	s.root("! banger network teardown") // VMs use it
	s.must("banger vm delete -f box bridge-firecracker bridge-qemu")
	s.root("banger network teardown")
	s.status(3, "systemctl is-active banger-network.service")
	if after := s.quiet(hostNetwork); after != before {
		s.fail("after the teardown:\n%s", cmp.Diff(before, after))
	}
}

// nothingLeft deletes what scenarios have left on purpose, and looks for what
// they have left otherwise.
func nothingLeft(s *scene) {
	s.must("banger vm list -q | xargs -r banger vm delete -f")
	s.equal("VMs", s.must("banger vm list --json"), "[]")
	s.must("banger daemon stop")
	s.equal("processes", s.root("ps -u "+user+" -o args= | grep -E '[b]anger|[f]irecracker|[q]emu' || true"), "")
	s.eventually("! " + scopes + " | grep -q .")
	s.equal("files", s.must("cd ~/.local/state/banger && find vms tmp images/tmp kernels/tmp $XDG_RUNTIME_DIR/banger/vm -mindepth 1 2>/dev/null || true"), "")
	s.equal("sockets", s.must("find $XDG_RUNTIME_DIR/banger -type s"), "")
}
