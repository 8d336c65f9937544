// Package e2e drives the real programs with real virtual machines: one script
// of testdata a concern. BANGER_E2E=1 turns it on; see README.md.
package e2e
