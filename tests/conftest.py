"""What holds for all tests: they never assert a time, so hypothesis sets an example no deadline either; and none leaves an
exception behind as the one being handled, as compiled coroutines once did. Kind: table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("recall", deadline=None)
settings.load_profile("recall")


@pytest.fixture(autouse=True, scope="module")
def _no_exception_is_left() -> Iterator[None]:
    yield
    assert sys.exc_info()[1] is None
