"""Real FUSE programs, unmodified, through perfused."""

import pytest

pytest.register_assert_rewrite("tests.clients.harness", "tests.clients.workload")
