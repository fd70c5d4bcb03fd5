"""The suite mirrors the tree of the package and runs on real engines."""
