"""The reference files that several test modules compare with."""

import pytest
from reference_outputs import REFERENCES, Reference, read_reference


@pytest.fixture(scope="session", params=REFERENCES)
def golden(request) -> Reference:
    return read_reference(request.param)
