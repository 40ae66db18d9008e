"""Programs of the lab itself that run in its network: what a real network has beside peers and NATs."""
