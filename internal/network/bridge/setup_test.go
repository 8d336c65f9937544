package bridge

import (
	"bufio"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/api"
	"banger/internal/network/netnstest"
	"banger/internal/network/policy"
)

func settings(taps int) Settings {
	return Settings{User: "me", UID: os.Getuid(), TAPs: taps, DNSPort: 42069}
}

func setUp(t *testing.T, h Host, s Settings) {
	t.Helper()
	if err := Setup(t.Context(), h, s, "", func(text string) { t.Error("warned:", text) }); err != nil {
		t.Fatal(err)
	}
}

func tearDown(t *testing.T, h Host) {
	t.Helper()
	done, err := Teardown(t.Context(), h, false, func(string) {})
	if err != nil || !done {
		t.Fatalf("teardown: %v, %v", done, err)
	}
}

// foreigners are things that nobody may touch.
const foreigners = `
ip link add br-else type bridge && echo 1 >/proc/sys/net/ipv6/conf/br-else/disable_ipv6 && ip addr add 10.77.0.1/24 dev br-else && ip link set br-else up &&
ip tuntap add dev bangerx mode tap && ip tuntap add dev banger mode tap &&
ip route add blackhole 10.78.0.0/16 && ip rule add from 10.79.0.0/16 lookup 100 &&
nft -f - <<EOF
table inet else { chain forward { type filter hook forward priority 0; ip saddr 10.0.0.0/8 accept; }
  chain leave { type nat hook postrouting priority 100; ip saddr 10.77.0.0/24 masquerade; }
}
table ip banger {
}
EOF`

func TestSetupAndTeardown(t *testing.T) {
	t.Parallel()
	if !netnstest.Enter(t) {
		return
	}
	h := testHost(t)
	command(t, "sh", "-ec", foreigners)
	for _, forwarding := range []string{"0", "1"} {
		if err := writeSetting(forwardingPath, forwarding); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, h)
		setUp(t, h, settings(4))
		made := snapshot(t, h)
		setUp(t, h, settings(4))
		if diff := cmp.Diff(made, snapshot(t, h)); diff != "" {
			t.Errorf("the second setup changed (-first +second):\n%s", diff)
		}
		for _, want := range []string{"172.16.0.1/24", "banger19:", "table inet banger {", "table netdev banger {", "isolated on"} {
			if !strings.Contains(made, want) {
				t.Errorf("there is no %q in:\n%s", want, made)
			}
		}
		status, err := Look(t.Context(), h)
		if want := (Status{SetUp: true, User: "me", Bridge: "banger0", Address: "172.16.0.1/24", TAPs: 4}); err != nil || !cmp.Equal(status, want) {
			t.Errorf("status: %v, %v", cmp.Diff(want, status), err)
		}
		// Another number, another policy.
		other := settings(2)
		other.Policy = policy.Policy{Guests: true, LAN: true}
		setUp(t, h, other)
		if now := snapshot(t, h); strings.Contains(now, "banger18") || strings.Contains(now, "isolated on") || !strings.Contains(now, "banger17") {
			t.Errorf("2 TAP devices that are not isolated are wanted:\n%s", now)
		}
		setUp(t, h, settings(4))
		if diff := cmp.Diff(withoutIndexes(made), withoutIndexes(snapshot(t, h))); diff != "" {
			t.Errorf("back again it is another (-first +now):\n%s", diff)
		}
		tearDown(t, h)
		// The foreigners may need it by now.
		before = strings.ReplaceAll(before, forwardingPath+"\n0\n", forwardingPath+"\n1\n")
		if diff := cmp.Diff(before, snapshot(t, h)); diff != "" {
			t.Errorf("after the teardown (-before +after):\n%s", diff)
		}
		if done, err := Teardown(t.Context(), h, false, func(string) {}); done || err != nil {
			t.Errorf("the second teardown: %v, %v", done, err)
		}
		if status, err := Look(t.Context(), h); status.SetUp || err != nil {
			t.Errorf("status: %+v, %v", status, err)
		}
	}
}

// withoutIndexes keeps what is the same for links that were made again.
func withoutIndexes(snapshot string) string {
	var kept []string
	for line := range strings.SplitSeq(snapshot, "\n") {
		if strings.Contains(line, "banger") && !strings.Contains(line, "link/ether") {
			_, line, _ = strings.Cut(line, ": ")
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// TestSetupThatIsKilled ends setups and teardowns with kill -9 at any moment.
func TestSetupThatIsKilled(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("BANGER_TEST_SETUP"); dir != "" {
		h := Host{State: dir + "/state", Units: dir, Systemd: "/nowhere", Resolved: "/nowhere"}
		println("ready")
		if err := Setup(t.Context(), h, settings(16), "", func(string) {}); err != nil {
			t.Fatal(err)
		}
		if _, err := Teardown(t.Context(), h, false, func(string) {}); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !netnstest.Enter(t) {
		return
	}
	h := testHost(t)
	before := snapshot(t, h)
	partly := 0
	for range 15 {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestSetupThatIsKilled$", "-test.count=1")
		cmd.Env = append(os.Environ(), "BANGER_TEST_SETUP="+h.Units)
		out, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(400 * time.Millisecond))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if snapshot(t, h) == before {
			continue
		}
		partly++
		if rand.N(2) == 0 { // set up from where it was
			setUp(t, h, settings(3))
		}
		if _, err := Teardown(t.Context(), h, false, func(string) {}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, snapshot(t, h)); diff != "" {
			t.Fatalf("after the teardown (-before +after):\n%s", diff)
		}
	}
	t.Logf("%d were ended in the middle", partly)
	if partly == 0 {
		t.Error("none was ended in the middle")
	}
}

func TestCollisions(t *testing.T) {
	t.Parallel()
	if !netnstest.Enter(t) {
		return
	}
	h := testHost(t)
	for _, test := range []struct{ make, unmake, want string }{
		{"ip link add x type bridge; echo 1 >/proc/sys/net/ipv6/conf/x/disable_ipv6; ip addr add 172.16.0.9/24 dev x; ip link set x up", "ip link del x", "collides with the"},
		{"ip link add x type bridge; echo 1 >/proc/sys/net/ipv6/conf/x/disable_ipv6; ip addr add 172.16.0.200/32 dev x", "ip link del x", "collides with the"},
		{"ip link add x type bridge; echo 1 >/proc/sys/net/ipv6/conf/x/disable_ipv6; ip link set x up; ip route add 172.16.0.0/12 dev x", "ip link del x", "collides with the route 172.16.0.0/12 on x"},
		{"ip route add blackhole 172.16.0.128/25 table 7", "ip route del blackhole 172.16.0.128/25 table 7", "collides with the route 172.16.0.128/25"},
		{"ip link add banger0 type bridge", "ip link del banger0", "link banger0 that banger did not make"},
		{"ip tuntap add dev banger17 mode tap", "ip link del banger17", "link banger17 that banger did not make"},
		{"nft add table inet banger", "nft delete table inet banger", "firewall table banger that banger did not make"},
	} {
		command(t, "sh", "-ec", test.make)
		before := snapshot(t, h)
		err := Setup(t.Context(), h, settings(4), "", func(string) {})
		if known, ok := errors.AsType[*api.Error](err); !ok || !strings.Contains(known.Message, test.want) || known.Hint == "" {
			t.Errorf("%s: %v", test.make, err)
		}
		if diff := cmp.Diff(before, snapshot(t, h)); diff != "" {
			t.Errorf("%s: it changed:\n%s", test.make, diff)
		}
		command(t, "sh", "-ec", test.unmake)
	}
	// What a VPN makes of "everywhere" is none.
	command(t, "sh", "-ec", "ip link add x type bridge; echo 1 >/proc/sys/net/ipv6/conf/x/disable_ipv6; ip link set x up; ip route add 128.0.0.0/1 dev x")
	setUp(t, h, settings(1))
	// What took the place of something of ours is not touched.
	command(t, "sh", "-ec", "ip link del banger0; ip link add banger0 type bridge")
	if err := Setup(t.Context(), h, settings(1), "", func(string) {}); err == nil || !strings.Contains(err.Error(), "did not make") {
		t.Errorf("over a foreign bridge: %v", err)
	}
	tearDown(t, h)
	command(t, "ip", "link", "show", "banger0")
	other := settings(1)
	command(t, "ip", "link", "del", "banger0")
	setUp(t, h, other)
	other.UID, other.User = other.UID+1, "you"
	if err := Setup(t.Context(), h, other, "", func(string) {}); err == nil || !strings.Contains(err.Error(), "it is set up for me") {
		t.Errorf("for another user: %v", err)
	}
}

func TestTeardownWithVMs(t *testing.T) {
	t.Parallel()
	if !netnstest.Enter(t) {
		return
	}
	h := testHost(t)
	before := snapshot(t, h)
	setUp(t, h, settings(3))
	vm := openTAP(t, "banger18")
	if _, err := Teardown(t.Context(), h, false, func(string) {}); err == nil || !strings.Contains(err.Error(), "VMs are using banger18") {
		t.Errorf("teardown: %v", err)
	}
	if err := Setup(t.Context(), h, settings(2), "", func(string) {}); err == nil || !strings.Contains(err.Error(), "a VM is using banger18") {
		t.Errorf("setup with fewer: %v", err)
	}
	setUp(t, h, settings(5))
	if status, err := Look(t.Context(), h); err != nil || !cmp.Equal(status.InUse, []string{"banger18"}) {
		t.Errorf("status: %+v, %v", status, err)
	}
	if done, err := Teardown(t.Context(), h, true, func(string) {}); !done || err != nil {
		t.Errorf("teardown with force: %v, %v", done, err)
	}
	vm.Close()
	if diff := cmp.Diff(before, snapshot(t, h)); diff != "" {
		t.Errorf("after the teardown (-before +after):\n%s", diff)
	}
}

func TestBlocker(t *testing.T) {
	t.Parallel()
	if !netnstest.Enter(t) {
		return
	}
	h := testHost(t)
	command(t, "sh", "-ec", "nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'")
	var warned []string
	if err := Setup(t.Context(), h, settings(1), "", func(text string) { warned = append(warned, text) }); err != nil {
		t.Fatal(err)
	}
	if len(warned) != 1 || !strings.Contains(warned[0], `chain "ip filter FORWARD"`) {
		t.Errorf("warned: %q", warned)
	}
	if status, err := Look(t.Context(), h); err != nil || !cmp.Equal(status.Problems, warned) {
		t.Errorf("status: %+v, %v", status, err)
	}
}

func TestForwardingThatOthersNeed(t *testing.T) {
	t.Parallel()
	if !netnstest.Enter(t) {
		return
	}
	h := testHost(t)
	for _, test := range []struct{ make, unmake, want string }{
		{"true", "true", ""},
		{"nft add table ip x; nft add chain ip x y; nft add chain ip x in '{ type filter hook input priority 0; }'", "nft delete table ip x", ""},
		{"ip link add x type bridge", "ip link del x", ""},
		{"ip link add x type bridge; ip addr add 10.9.0.1/24 dev x", "ip link del x", "the bridge x"},
		{"nft add table inet x; nft add chain inet x y '{ type filter hook forward priority 0; }'", "nft delete table inet x", `chain "inet x y"`},
		{"nft add table ip banger; nft add chain ip banger y '{ type nat hook postrouting priority 100; }'", "nft delete table ip banger", `chain "ip banger y"`},
	} {
		if err := writeSetting(forwardingPath, "0"); err != nil {
			t.Fatal(err)
		}
		setUp(t, h, settings(1))
		command(t, "sh", "-ec", test.make)
		var warned []string
		if done, err := Teardown(t.Context(), h, false, func(text string) { warned = append(warned, text) }); err != nil || !done {
			t.Fatalf("%s: %v, %v", test.make, done, err)
		}
		now, err := readSetting(forwardingPath)
		if err != nil {
			t.Fatal(err)
		}
		if test.want == "" && (now != "0" || warned != nil) || test.want != "" && (now != "1" || len(warned) != 1 || !strings.Contains(warned[0], test.want)) {
			t.Errorf("%s: it is %s, warned: %q", test.make, now, warned)
		}
		command(t, "sh", "-ec", test.unmake)
	}
}
