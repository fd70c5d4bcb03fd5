"""Measurements: what the server does on this machine, with every job committed. Run by `just bench`."""
