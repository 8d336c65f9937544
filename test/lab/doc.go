// Package lab runs the real Firecracker on a KVM that works, on any machine: in
// a Debian host that QEMU emulates together with the processor's
// virtualization. See README.md.
package lab
