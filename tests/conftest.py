"""What holds for all tests: they never assert a time, so hypothesis sets an example no deadline either. Kind: table."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("recall", deadline=None)
settings.load_profile("recall")
