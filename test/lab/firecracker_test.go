package lab

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
