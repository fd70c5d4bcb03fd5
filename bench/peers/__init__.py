"""Peers measured beside ours by the same rule, each in an environment of its own and in its recommended settings."""
