"""Tests of jobserver.embedded."""
