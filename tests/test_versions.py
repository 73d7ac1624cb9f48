import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from hemaseg import versions as module
from hemaseg.versions import PACKAGES, versions


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert list(found) == ["python", *PACKAGES]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["numpy"] == np.__version__


def test_a_package_that_is_absent_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(module, "version", absent)
    assert versions()["torch"] == "not installed"
