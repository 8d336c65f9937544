package launch

import "testing"

// BenchmarkStart is what a launcher adds to the start of a VM, and a start
// without it.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		if _, err := Check(b.Context(), self); err != nil {
			b.Fatal(err)
		}
	}
}
