"""The model-based test: random lives of jobs on real engines, beside a model that says what must come of them."""

import pytest

# So that an assertion of a rule shows its values.
pytest.register_assert_rewrite("tests.model.machine", "tests.model.world")
