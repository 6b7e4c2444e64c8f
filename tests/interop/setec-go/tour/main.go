// Reads a secret with the official, unmodified setec client, as the README's tour does:
//
//	eval "$(conclave dev env)" && go run ./tour app/database-password
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/tailscale/setec/client/setec"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: tour NAME")
	}
	ca, err := os.ReadFile(os.Getenv("CONCLAVE_CA"))
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	certificate, err := tls.LoadX509KeyPair(os.Getenv("CONCLAVE_CLIENT_CERT"), os.Getenv("CONCLAVE_CLIENT_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	trust := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}
	client := setec.Client{
		Server: strings.Split(os.Getenv("CONCLAVE_ADDRESSES"), ",")[0],
		DoHTTP: (&http.Client{Transport: &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true}}).Do,
	}
	secret, err := client.Get(context.Background(), os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("version %d: %s\n", secret.Version, secret.Value)
}
