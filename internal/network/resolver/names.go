package resolver

import (
	"strings"

	"banger/internal/network/dns/zone"
)

// own answers a question about the names of VMs, and returns nil for all
// others. Such a question never leaves the host.
func (r *Resolver) own(question []byte) []byte {
	if !ofVMs(question) {
		return nil
	}
	answer, err := zone.Answer(question, "", r.Names)
	if err != nil {
		return failure(question)
	}
	const flags, recursionAvailable = 3, 0x80
	answer[flags] |= recursionAvailable
	return answer
}

// ofVMs says whether a message asks for a name in the zone of VMs. It looks at
// the bytes, since hardly any question does and parsing each takes time.
func ofVMs(question []byte) bool {
	end := questionEnd(question)
	const tail = len("\x02vm\x00") + 4 // and type and class
	if end < dnsHeader+tail {
		return false
	}
	// The label before could end in these bytes: lengths are below any letter.
	return strings.EqualFold(string(question[end-tail:end-4]), "\x02vm\x00") && lastLabel(question[dnsHeader:end-4]) == 2
}

// lastLabel is the length of a name's last label before the root.
func lastLabel(name []byte) int {
	last := 0
	for at := 0; at < len(name) && name[at] != 0; at += 1 + int(name[at]) {
		last = int(name[at])
	}
	return last
}
