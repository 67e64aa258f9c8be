// Go reads tasks from standard input, one a line, and prints each result. `tasks.py` describes the format.

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"
)

const seconds = 30 * time.Second

var purposes = map[string]x509.ExtKeyUsage{
	"1.3.6.1.5.5.7.3.1": x509.ExtKeyUsageServerAuth,
	"1.3.6.1.5.5.7.3.2": x509.ExtKeyUsageClientAuth,
	"1.3.6.1.5.5.7.3.9": x509.ExtKeyUsageOCSPSigning,
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		task := strings.Split(lines.Text(), "\t")
		said, err := work(task[1], task[2:])
		if err != nil {
			said = "refused\t" + err.Error()
		} else {
			said = "accepted\t" + said
		}
		fmt.Printf("%s\t%s\n", task[0], strings.ReplaceAll(said, "\n", " "))
	}
}

func work(kind string, a []string) (string, error) {
	switch kind {
	case "parse":
		_, err := certificate(a[0])
		return "", err
	case "path":
		return "", path(a[0], a[1], a[2], names(a[3]), names(a[4]))
	case "ocsp":
		return "", ask(a[0], a[1], names(a[2]))
	case "tls":
		return connect(a[0], a[1], names(a[2]), a[3], names(a[4]))
	}
	return "", errors.New("unknown task " + kind)
}

func names(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func certificate(name string) (*x509.Certificate, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	found, _ := pem.Decode(data)
	if found == nil {
		return nil, errors.New(name + " is not PEM")
	}
	return x509.ParseCertificate(found.Bytes)
}

// verify checks a path for a purpose. The standard library knows no OID of others as a purpose: it checks the path for
// any purpose, and this function compares the OID.
func verify(purpose, root, leaf string, cas []string) ([]*x509.Certificate, error) {
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	anchor, err := certificate(root)
	if err != nil {
		return nil, err
	}
	options.Roots.AddCert(anchor)
	for _, name := range cas {
		ca, err := certificate(name)
		if err != nil {
			return nil, err
		}
		options.Intermediates.AddCert(ca)
	}
	subject, err := certificate(leaf)
	if err != nil {
		return nil, err
	}
	usage, known := purposes[purpose]
	if !known {
		usage = x509.ExtKeyUsageAny
	}
	options.KeyUsages = []x509.ExtKeyUsage{usage}
	if !known && purpose != "" && (len(subject.UnknownExtKeyUsage) != 1 || subject.UnknownExtKeyUsage[0].String() != purpose) {
		return nil, errors.New("the certificate is not for " + purpose)
	}
	chains, err := subject.Verify(options)
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

func path(purpose, root, leaf string, cas, lists []string) error {
	chain, err := verify(purpose, root, leaf, cas)
	if err != nil {
		return err
	}
	return revoked(chain, lists)
}

// revoked checks each certificate of the chain that names a list. The standard library reads and verifies a list, and
// leaves the rest to its callers.
func revoked(chain []*x509.Certificate, names []string) error {
	for i, subject := range chain[:len(chain)-1] {
		if len(names) == 0 || len(subject.CRLDistributionPoints) == 0 {
			continue
		}
		found := false
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			list, err := x509.ParseRevocationList(data)
			if err != nil {
				return err
			}
			if !bytes.Equal(list.RawIssuer, subject.RawIssuer) {
				continue
			}
			if err := list.CheckSignatureFrom(chain[i+1]); err != nil {
				return err
			}
			found = time.Now().Before(list.NextUpdate)
			for _, entry := range list.RevokedCertificates {
				if entry.SerialNumber.Cmp(subject.SerialNumber) == 0 {
					return errors.New("revoked: " + subject.Subject.String())
				}
			}
		}
		if !found {
			return errors.New("no list for " + subject.Subject.String())
		}
	}
	return nil
}

func ask(root, leaf string, cas []string) error {
	chain, err := verify("", root, leaf, cas)
	if err != nil {
		return err
	}
	request, err := ocsp.CreateRequest(chain[0], chain[1], nil)
	if err != nil {
		return err
	}
	answer, err := client(nil).Post(chain[0].OCSPServer[0], "application/ocsp-request", bytes.NewReader(request))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	said, err := ocsp.ParseResponseForCert(data, chain[0], chain[1])
	if err != nil {
		return err
	}
	if said.Status != ocsp.Good {
		return fmt.Errorf("revoked: OCSP status %d", said.Status)
	}
	return nil
}

func client(config *tls.Config) *http.Client {
	return &http.Client{Timeout: seconds, Transport: &http.Transport{TLSClientConfig: config}}
}

func connect(port, root string, chain []string, key string, lists []string) (string, error) {
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	anchor, err := certificate(root)
	if err != nil {
		return "", err
	}
	config.RootCAs.AddCert(anchor)
	config.VerifyPeerCertificate = func(_ [][]byte, chains [][]*x509.Certificate) error {
		return revoked(chains[0], lists)
	}
	if len(chain) > 0 {
		var all []byte
		for _, name := range chain {
			data, err := os.ReadFile(name)
			if err != nil {
				return "", err
			}
			all = append(all, data...)
		}
		private, err := os.ReadFile(key)
		if err != nil {
			return "", err
		}
		own, err := tls.X509KeyPair(all, private)
		if err != nil {
			return "", err
		}
		config.Certificates = []tls.Certificate{own}
	}
	url := "https://127.0.0.1:" + port + "/.well-known/est/simplereenroll"
	answer, err := client(config).Post(url, "", nil)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	return fmt.Sprintf("HTTP %d", answer.StatusCode), nil
}
