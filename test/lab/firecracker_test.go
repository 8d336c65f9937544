package lab

import (
	"os"
	"strings"
)

// ends has guests end themselves: the VMM is gone, and the VM is stopped. A panic
// is not among the ways: on nested KVM one guest in some hung in it for good.
func ends(s *scene) {
	s.tiny()
	s.must("banger vm create --name ends --image tiny-1 --memory 128M --vcpu 1 --no-start")
	for _, way := range []string{"busybox poweroff -f", "busybox reboot -f", "busybox halt -f"} {
		s.must("banger vm start ends")
		s.user("timeout -k 10 60 banger vm exec ends -- sh -c '"+way+"' </dev/null", "")
		s.eventually("banger vm list | grep -q '^ends .* stopped'")
	}
	s.must("banger vm delete ends")
}

// speed measures, which takes long and is no test: see docs/performance.md.
func speed(s *scene) {
	if os.Getenv("BANGER_LAB_SPEED") == "" {
		s.t.Skip("NOT MEASURED: set BANGER_LAB_SPEED to the number of rounds, such as 5")
	}
	s.tiny()
	s.must("banger vm create --no-start --name speed --image tiny-1 --vcpu 1 --memory 512M")
	for _, run := range []struct{ image, command string }{
		{"tiny-1", "banger vm run --rm --image tiny-1 --vcpu 1 --memory 512M -- true"},
		{"debian-bookworm", "banger vm create --vcpu 1 --memory 512M"},
	} {
		s.contains("the measurement", s.must(strings.NewReplacer("@image@", run.image, "@command@", run.command, "@rounds@", os.Getenv("BANGER_LAB_SPEED")).Replace(`cd ~/.local/state/banger
			export BANGER_TEST_FIRECRACKER=$(command -v firecracker) BANGER_TEST_ROUNDS=@rounds@ BANGER_TEST_COMMAND='@command@'
			object() { echo $PWD/$1/objects/$(jq -r .digest $1/names/$2.json | tr : -); }
			export BANGER_TEST_IMAGE=$(object images @image@)/root.ext4
			kernel=$(object kernels debian-6.12)
			export BANGER_TEST_KERNEL=$kernel/vmlinux BANGER_TEST_MODULES=$kernel/modules.ext4 BANGER_TEST_INITRAMFS=/opt/lab/initramfs
			dir=$(banger vm show speed --json | jq -r .dir)
			export BANGER_TEST_OVERLAY=$dir/overlay.ext4 BANGER_TEST_WORK=$dir/work.ext4
			/opt/lab/firecracker.test -test.v -test.run '^TestRealSpeed$'`)), "| that divided by")
		s.must("banger vm list -q | grep -vx speed | xargs -r banger vm delete -f")
	}
	s.must("banger vm delete speed")
}
