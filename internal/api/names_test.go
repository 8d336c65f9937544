package api_test

import (
	"strings"
	"testing"

	"banger/internal/api"
)

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{
		"a": true, "7": true, "a-b": true, "a--b": true, "0b1": true, strings.Repeat("a", 63): true,
		"": false, "-": false, "-a": false, "a-": false, "A": false, "a.b": false, "a b": false, "ä": false, "a\n": false, strings.Repeat("a", 64): false,
	} {
		if err := api.CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}
