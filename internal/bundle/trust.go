package bundle

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"banger/internal/api"
)

// Namespace is what a signature must be made for: `ssh-keygen -Y sign -n`.
const Namespace = "banger-bundle"

// SignatureExtension is appended to a bundle's name to get the signature's.
const SignatureExtension = ".sig"

// maxSignature bounds the file of a signature; one has 300 bytes.
const maxSignature = 16 << 10

// trust tells whether the one who signed, if anyone, may say what runs here.
func trust(signed, signature []byte, trusted []ssh.PublicKey) (signer string, err error) {
	if signature == nil {
		if len(trusted) == 0 {
			return "", nil
		}
		return "", &api.Error{
			Kind: api.KindState, Message: "it is not signed, and trusted_keys of the configuration asks for that",
			Hint: "--untrusted takes it all the same",
		}
	}
	sig, err := sshsig.Unarmor(signature)
	if err != nil {
		return "", badSignature(err)
	}
	if err := sshsig.Verify(bytes.NewReader(signed), sig, sig.PublicKey, sig.HashAlgorithm, Namespace); err != nil {
		return "", badSignature(err)
	}
	if slices.ContainsFunc(trusted, func(key ssh.PublicKey) bool { return bytes.Equal(key.Marshal(), sig.PublicKey.Marshal()) }) {
		return authorized(sig.PublicKey), nil
	}
	return "", &api.Error{
		Kind: api.KindState, Message: fmt.Sprintf("it is signed by %s, which is none of trusted_keys of the configuration", ssh.FingerprintSHA256(sig.PublicKey)),
		Hint: fmt.Sprintf("if you trust who has this key, add it to trusted_keys: %q; --untrusted takes the bundle this once", authorized(sig.PublicKey)),
	}
}

func badSignature(err error) error {
	return &api.Error{Kind: api.KindState, Message: fmt.Sprintf("its signature is not good: %v", err)}
}

func authorized(key ssh.PublicKey) string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
}
