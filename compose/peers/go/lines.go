package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	maxLine        = 1 << 20
	maxAtOnce      = 256
	defaultTimeout = 30.0
	maxTimeout     = 3600.0
)

type fields map[string]any

// output writes one JSON object a line; events and answers come from many goroutines.
type output struct {
	mutex   sync.Mutex
	encoder *json.Encoder
}

func newOutput(file *os.File) *output {
	encoder := json.NewEncoder(file)
	encoder.SetEscapeHTML(false)
	return &output{encoder: encoder}
}

func (o *output) line(value fields) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if err := o.encoder.Encode(value); err != nil {
		fmt.Fprintf(os.Stderr, "nobody reads our answers: %v\n", err)
	}
}

func (o *output) event(name string, about fields) {
	line := fields{"event": name, "at": float64(time.Now().UnixMicro()) / 1e6}
	for key, value := range about {
		if value != nil {
			line[key] = value
		}
	}
	o.line(line)
}

func (o *output) complain(format string, values ...any) {
	o.event("complaint", fields{"why": fmt.Sprintf(format, values...)})
}

// request is one command with its arguments.
type request struct {
	ID       *int64   `json:"id"`
	Do       string   `json:"do"`
	Timeout  float64  `json:"timeout"`
	Addr     string   `json:"addr"`
	Peer     string   `json:"peer"`
	Bytes    int64    `json:"bytes"`
	Upload   int64    `json:"upload"`
	Download int64    `json:"download"`
	Protocol string   `json:"protocol"`
	Addrs    []string `json:"addrs"`
	Version  int      `json:"version"`
	Tag      string   `json:"tag"`
}

// refusal is an error with the contract's word for its kind.
type refusal struct {
	kind string
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(kind string, err error) error { return &refusal{kind, err} }

// missing is what this peer does not have; its text says what.
type missing struct{ what string }

func (m *missing) Error() string { return m.what }

func kindOf(err error) string {
	var known *refusal
	switch {
	case errors.As(err, &known):
		return known.kind
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	default:
		return "refused"
	}
}

type command func(ctx context.Context, r *request) (fields, error)

// control reads commands and runs them side by side until stdin ends, `stop` comes or the context does.
type control struct {
	out      *output
	commands map[string]command
	slots    chan struct{}
	work     sync.WaitGroup
}

func newControl(node *node, out *output) *control {
	return &control{out: out, commands: node.commands(), slots: make(chan struct{}, maxAtOnce)}
}

func (c *control) serve(ctx context.Context, input io.Reader) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		c.read(ctx, input)
	}()
	<-ctx.Done()
	c.work.Wait()
}

func (c *control) read(ctx context.Context, input io.Reader) {
	scanner := bufio.NewScanner(input)
	scanner.Buffer(make([]byte, 64<<10), maxLine)
	for number := 1; scanner.Scan(); number++ {
		r := request{Timeout: defaultTimeout, Version: 2}
		switch err := json.Unmarshal(scanner.Bytes(), &r); {
		case err != nil:
			c.out.complain("line %d: not JSON: %v", number, err)
		case r.Do == "stop":
			if r.ID != nil {
				c.out.line(fields{"id": *r.ID, "ok": fields{}})
			}
			return
		case r.ID == nil:
			c.out.complain("line %d: no integer in `id`", number)
		default:
			c.start(ctx, &r)
		}
	}
	if err := scanner.Err(); err != nil {
		c.out.complain("stdin: %v", err)
	}
}

func (c *control) start(ctx context.Context, r *request) {
	run, known := c.commands[r.Do]
	if !known {
		c.out.line(fields{"id": *r.ID, "unsupported": r.Do})
		return
	}
	if r.Timeout <= 0 || r.Timeout > maxTimeout {
		c.fail(r, refuse("bad-argument", fmt.Errorf("`timeout` must be up to %g seconds", maxTimeout)))
		return
	}
	select {
	case c.slots <- struct{}{}:
	default:
		c.fail(r, refuse("limit", fmt.Errorf("%d commands are under way already", maxAtOnce)))
		return
	}
	c.work.Add(1)
	go func() {
		defer c.work.Done()
		defer func() { <-c.slots }()
		ctx, cancel := context.WithTimeout(ctx, time.Duration(r.Timeout*float64(time.Second)))
		defer cancel()
		if done, err := run(ctx, r); err != nil {
			c.fail(r, err)
		} else {
			c.out.line(fields{"id": *r.ID, "ok": done})
		}
	}()
}

func (c *control) fail(r *request, err error) {
	var lacks *missing
	if errors.As(err, &lacks) {
		c.out.line(fields{"id": *r.ID, "unsupported": lacks.what})
		return
	}
	c.out.line(fields{"id": *r.ID, "error": kindOf(err), "why": err.Error()})
}
