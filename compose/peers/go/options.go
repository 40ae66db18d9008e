package main

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// keptKey is the file in the folder of the state that holds the identity, a libp2p PrivateKey message.
const keptKey = "identity.key"

type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// options is the command line: the flags of docs/contract.md, and what only this peer has.
type options struct {
	name     string
	role     string
	listen   list
	state    string
	security []string
	muxers   []string

	mdns         bool
	mdnsDials    bool
	reachability string
}

func parseOptions(arguments []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("go peer", flag.ContinueOnError)
	flags.StringVar(&o.name, "name", "node", "what the peer is called in its logs")
	flags.StringVar(&o.role, "role", "peer", "peer or relay")
	flags.Var(&o.listen, "listen", "multiaddr to listen on, repeatable")
	flags.StringVar(&o.state, "state", "", "folder in which the identity is kept")
	security := flags.String("security", "noise,tls", "securities of TCP and WebSocket, the preferred one first")
	muxers := flags.String("muxer", "yamux", "muxers of TCP and WebSocket")
	flags.BoolVar(&o.mdns, "mdns", false, "discover peers on the local network")
	mdnsTells := flags.Bool("no-mdns-dial", false, "tell of the peers that mDNS finds, no more")
	flags.StringVar(&o.reachability, "reachability", "off", "auto: ask AutoNAT servers; public, private; off")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if o.role != "peer" && o.role != "relay" {
		return nil, fmt.Errorf("--role: %q is neither peer nor relay", o.role)
	}
	if _, err := some("--reachability", o.reachability, "off", "auto", "public", "private"); err != nil {
		return nil, err
	}
	o.mdnsDials = !*mdnsTells
	if len(o.listen) == 0 {
		o.listen = list{"/ip4/0.0.0.0/tcp/4001"}
	}
	var err error
	if o.security, err = some("--security", *security, "noise", "tls"); err != nil {
		return nil, err
	}
	o.muxers, err = some("--muxer", *muxers, "yamux")
	return o, err
}

func some(name, text string, known ...string) ([]string, error) {
	chosen := strings.Split(text, ",")
	for _, each := range chosen {
		if !slices.Contains(known, each) {
			return nil, fmt.Errorf("%s: no %q here; there are: %s", name, each, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// identity reads the key that an earlier start has left in the folder, or makes one and leaves it there.
func (o *options) identity() (crypto.PrivKey, error) {
	file := filepath.Join(o.state, keptKey)
	if o.state != "" {
		data, err := os.ReadFile(file)
		if err == nil {
			return crypto.UnmarshalPrivateKey(data)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil || o.state == "" {
		return key, err
	}
	data, err := crypto.MarshalPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, os.WriteFile(file, data, 0o600)
}
