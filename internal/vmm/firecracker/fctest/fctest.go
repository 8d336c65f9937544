// Package fctest has a fake Firecracker, and the table of calls that holds it
// to the real one.
//
// [Main] is the fake as a program: it has the command line, the API and the
// vsock of Firecracker, is as strict as that is, and has vmmtest's agent in
// place of a guest. Its words are Firecracker's own where tests look for them.
package fctest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"time"
)

// Version is what the fake says it is.
const Version = "1.12.1"

var validID = regexp.MustCompile(`^[a-zA-Z0-9-]{1,64}$`)

// Main is the fake; args are those after the program's name. It returns the
// exit status, if it returns: most ends come from a call of its API.
func Main(args []string) int {
	flags := flag.NewFlagSet("firecracker", flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	socket := flags.String("api-sock", "/run/firecracker.socket", "")
	id := flags.String("id", "anonymous-instance", "")
	logPath := flags.String("log-path", "", "")
	flags.String("level", "Info", "")
	version := flags.Bool("version", false, "")
	if err := flags.Parse(args); err != nil {
		return 153
	}
	if *version {
		fmt.Printf("Firecracker v%s\n\n%s [anonymous-instance:main] Firecracker exiting successfully. exit_code=0\n", Version, now()) //nolint:forbidigo // it is a program
		return 0
	}
	if !validID.MatchString(*id) {
		fmt.Fprintln(os.Stderr, "thread 'main' panicked: Invalid instance ID")
		return 134
	}
	log := io.Writer(os.Stdout)
	if *logPath != "" {
		// Like the real one of that version: from the first byte, and not made.
		file, err := os.OpenFile(*logPath, os.O_WRONLY, 0)
		if err != nil {
			fmt.Fprintf(os.Stderr, "Could not initialize logger: %v\n", err)
			return 1
		}
		defer file.Close()
		log = file
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "unix", *socket)
	if err != nil {
		fmt.Fprintf(log, "%s [%s:fc_api] Failed to open the API socket at: %s. Check that it is not already used.\n", now(), *id, *socket)
		return 1
	}
	fmt.Fprintf(log, "%s [%s:main] Listening on API socket (%q).\n", now(), *id, *socket)
	server := &http.Server{Handler: newVM(*id, log), ReadHeaderTimeout: time.Minute}
	if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return 1
	}
	return 0
}

func now() string { return time.Now().UTC().Format("2006-01-02T15:04:05.000000000") }
