"""The node as a program of libp2p's own test suites: told by environment variables, found through a Redis.

`python -m node.upstream [relay]`; docs/upstream.md says what each suite asks and how to enter the node there.
"""
