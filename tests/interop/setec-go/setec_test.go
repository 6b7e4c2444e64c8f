// The official, unmodified setec client against a running Conclave cluster. Started by
// tests/interop_setec.rs, which gives the cluster by the variables that `conclave dev env` prints.
package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tailscale/setec/client/setec"
	"github.com/tailscale/setec/types/api"
)

func client(t *testing.T) setec.Client {
	t.Helper()
	addresses := os.Getenv("CONCLAVE_ADDRESSES")
	if addresses == "" {
		t.Fatal("CONCLAVE_ADDRESSES is not set: this test is started by tests/interop_setec.rs")
	}
	ca, err := os.ReadFile(os.Getenv("CONCLAVE_CA"))
	check(t, err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("CONCLAVE_CA holds no certificate")
	}
	certificate, err := tls.LoadX509KeyPair(os.Getenv("CONCLAVE_CLIENT_CERT"), os.Getenv("CONCLAVE_CLIENT_KEY"))
	check(t, err)
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}},
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return setec.Client{
		Server: strings.Split(addresses, ",")[0],
		DoHTTP: (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do,
	}
}

// prefix keeps the names of one run apart from those of others in the same cluster.
func prefix() string { return os.Getenv("CONCLAVE_INTEROP_PREFIX") }

func TestEveryMethod(t *testing.T) {
	ctx, c := t.Context(), client(t)
	name := prefix() + "every-method"

	_, err := c.Get(ctx, name)
	mustBe(t, err, api.ErrNotFound)
	_, err = c.Info(ctx, name)
	mustBe(t, err, api.ErrNotFound)

	// The first put activates its version, later ones do not.
	mustPut(t, c, name, "one", 1)
	mustPut(t, c, name, "two", 2)
	mustPut(t, c, name, "one", 1)
	mustPut(t, c, name, "two", 2)
	mustGet(t, c, name, "one", 1)
	mustInfo(t, c, name, 1, 1, 2)

	value, err := c.GetVersion(ctx, name, 2)
	check(t, err)
	if string(value.Value) != "two" || value.Version != 2 {
		t.Fatalf("version 2 is %q, %d", value.Value, value.Version)
	}
	_, err = c.GetVersion(ctx, name, 3)
	mustBe(t, err, api.ErrNotFound)

	_, err = c.GetIfChanged(ctx, name, 1)
	mustBe(t, err, api.ErrValueNotChanged)
	check(t, c.Activate(ctx, name, 2))
	value, err = c.GetIfChanged(ctx, name, 1)
	check(t, err)
	if string(value.Value) != "two" || value.Version != 2 {
		t.Fatalf("after activating, the poll got %q, %d", value.Value, value.Version)
	}
	mustBe(t, c.Activate(ctx, name, 9), api.ErrNotFound)

	// A chosen version becomes active, and can be made once only, even after it was deleted.
	check(t, c.CreateVersion(ctx, name, 10, []byte("ten")))
	mustGet(t, c, name, "ten", 10)
	mustBe(t, c.CreateVersion(ctx, name, 10, []byte("again")), api.ErrVersionClaimed)
	mustPut(t, c, name, "eleven", 11)
	check(t, c.DeleteVersion(ctx, name, 2))
	mustBe(t, c.CreateVersion(ctx, name, 2, []byte("again")), api.ErrVersionClaimed)
	_, err = c.GetVersion(ctx, name, 2)
	mustBe(t, err, api.ErrNotFound)
	if err := c.DeleteVersion(ctx, name, 10); err == nil || errors.Is(err, api.ErrNotFound) {
		t.Fatalf("deleting the active version: %v", err)
	}
	mustInfo(t, c, name, 10, 1, 10, 11)

	secrets, err := c.List(ctx)
	check(t, err)
	if !slices.ContainsFunc(secrets, func(s *api.SecretInfo) bool { return s.Name == name }) {
		t.Fatalf("%q is not in the list", name)
	}

	check(t, c.Delete(ctx, name))
	check(t, c.Delete(ctx, name))
	_, err = c.Get(ctx, name)
	mustBe(t, err, api.ErrNotFound)
	// Numbers are never used twice at a name.
	mustPut(t, c, name, "reborn", 12)
	mustGet(t, c, name, "reborn", 12)
	check(t, c.Delete(ctx, name))
}

func TestValuesAreExact(t *testing.T) {
	c := client(t)
	for name, value := range map[string][]byte{
		prefix() + "binary":      {0, 1, 2, 255, 254, '\r', '\n', 0},
		prefix() + "large":       bytes.Repeat([]byte("0123456789abcdef"), 1<<16),
		prefix() + "näme mit 空白": []byte("unicode"),
	} {
		_, err := c.Put(t.Context(), name, value)
		check(t, err)
		got, err := c.Get(t.Context(), name)
		check(t, err)
		if !bytes.Equal(got.Value, value) {
			t.Fatalf("%q came back with %d bytes instead of %d", name, len(got.Value), len(value))
		}
		check(t, c.Delete(t.Context(), name))
	}
}

func TestStorePolls(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := client(t)
	name := prefix() + "store"
	_, err := c.Put(ctx, name, []byte("before"))
	check(t, err)
	store, err := setec.NewStore(ctx, setec.StoreConfig{
		Client: c, Secrets: []string{name}, PollInterval: -1, Logf: t.Logf,
	})
	check(t, err)
	defer store.Close()
	secret := store.Secret(name)
	if got := secret.GetString(); got != "before" {
		t.Fatalf("the store has %q", got)
	}
	check(t, store.Refresh(ctx))
	version, err := c.Put(ctx, name, []byte("after"))
	check(t, err)
	check(t, c.Activate(ctx, name, version))
	// A node may answer a poll from a state that is up to the staleness bound old.
	for secret.GetString() != "after" {
		check(t, ctx.Err())
		check(t, store.Refresh(ctx))
	}
	check(t, c.Delete(ctx, name))
}

func mustPut(t *testing.T, c setec.Client, name, value string, want api.SecretVersion) {
	t.Helper()
	got, err := c.Put(t.Context(), name, []byte(value))
	check(t, err)
	if got != want {
		t.Fatalf("putting %q gave version %d, not %d", value, got, want)
	}
}

func mustGet(t *testing.T, c setec.Client, name, want string, version api.SecretVersion) {
	t.Helper()
	got, err := c.Get(t.Context(), name)
	check(t, err)
	if string(got.Value) != want || got.Version != version {
		t.Fatalf("the active value is %q, version %d, not %q, %d", got.Value, got.Version, want, version)
	}
}

func mustInfo(t *testing.T, c setec.Client, name string, active api.SecretVersion, versions ...api.SecretVersion) {
	t.Helper()
	info, err := c.Info(t.Context(), name)
	check(t, err)
	if info.Name != name || info.ActiveVersion != active || !slices.Equal(info.Versions, versions) {
		t.Fatalf("info is %+v, not active %d of %v", info, active, versions)
	}
}

func mustBe(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("the error is %v, not %v", got, want)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
