"""The gateway's rules: what a good request is, how a job is cut, where a client stands. Standard library
only, pure."""
