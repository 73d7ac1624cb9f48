"""Versions of what results depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    *("hemaseg", "torch", "openvino", "numpy", "scipy", "pandas", "nibabel", "pydicom"),
    *("highdicom", "imagecodecs", "pillow", "matplotlib"),
)


def versions() -> dict[str, str]:
    """Versions of Python and of `PACKAGES`; "not installed" if absent."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
