package vm

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/netip"
	"regexp"

	"banger/internal/api"
	"banger/internal/network/plan"
)

var validID = regexp.MustCompile(`^[0-9a-f]{12}$`)

// randomHex returns 2n hex digits.
func randomHex(n int) string {
	data := make([]byte, n)
	rand.Read(data) // never fails
	return hex.EncodeToString(data)
}

var adjectives = []string{
	"able", "amber", "blue", "bold", "brave", "brisk", "calm", "clear", "clever", "cosy", "crisp", "eager", "early", "fair", "fleet", "fond",
	"fresh", "gentle", "glad", "golden", "grand", "green", "happy", "hardy", "honest", "jolly", "keen", "kind", "lively", "lucky", "mellow", "merry",
	"mild", "neat", "nimble", "noble", "patient", "placid", "polite", "proud", "quick", "quiet", "rapid", "ready", "sharp", "shiny", "silent", "silver",
	"smart", "snug", "solid", "steady", "sturdy", "sunny", "swift", "tidy", "vivid", "warm", "wise", "witty", "young", "zesty",
}

var nouns = []string{
	"badger", "bear", "beaver", "bison", "bobcat", "cedar", "cobra", "comet", "coral", "crane", "cricket", "dingo", "dolphin", "eagle", "falcon", "fern",
	"ferret", "finch", "fox", "gecko", "hare", "hawk", "heron", "ibex", "iris", "jackal", "jaguar", "kestrel", "koala", "lark", "lemur", "lily",
	"lion", "llama", "lynx", "maple", "marten", "meadow", "moose", "newt", "ocelot", "orca", "osprey", "otter", "owl", "panda", "pine", "puffin",
	"puma", "quail", "raven", "robin", "salmon", "seal", "sparrow", "stork", "swan", "tapir", "tiger", "toucan", "trout", "walrus", "wolf", "wren",
}

// generateName makes a name up that is not taken.
func generateName(taken func(string) bool) string {
	for range 100 {
		name := pick(adjectives) + "-" + pick(nouns)
		if !taken(name) {
			return name
		}
	}
	for {
		name := pick(adjectives) + "-" + pick(nouns) + "-" + randomHex(2)
		if !taken(name) {
			return name
		}
	}
}

func pick(words []string) string {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil { // crypto/rand never fails
		return words[0]
	}
	return words[n.Int64()]
}

// allocateAddress returns the lowest free address.
func allocateAddress(taken func(string) bool) (string, error) {
	for addr := range plan.Addresses() {
		if address := addr.String(); !taken(address) {
			return address, nil
		}
	}
	return "", &api.Error{
		Kind:    api.KindState,
		Message: fmt.Sprintf("cannot create one more VM: all %d addresses are taken", plan.Size),
		Hint:    "delete a VM that is no longer needed: banger vm delete NAME",
	}
}

// macOf is the MAC address of the VM with an address of the plan.
func macOf(address string) string { return plan.MAC(netip.MustParseAddr(address)) }

// inPlan adds the prefix length of the plan to an address.
func inPlan(address string) string { return plan.WithLength(netip.MustParseAddr(address)).String() }
