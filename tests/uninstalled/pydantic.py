"""In the place of what only tools of tests need: a server of a test starts as a user's does, a tenth faster."""

raise ImportError("pydantic is no dependency of jobserver")
