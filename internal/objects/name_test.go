package objects_test

import (
	"errors"
	"strings"
	"testing"

	"banger/internal/objects"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{
		"a": true, "A9": true, "0._-": true, strings.Repeat("a", 128): true,
		"": false, ".a": false, "_": false, "-a": false, "a/b": false, "a b": false, "a\n": false, "é": false, "a\xff": false, "..": false, strings.Repeat("a", 129): false,
	} {
		if err := objects.CheckName(name); (err == nil) != good || (err != nil && !errors.Is(err, objects.ErrBadName)) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
