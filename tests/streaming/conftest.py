"""Fixtures that several modules here share."""

import pytest

from . import tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """$STREAMZOO_HOME with the tiny student's weights, registered for the module's time."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMZOO_HOME", str(folder))
        tiny.add(folder)
        yield folder
        tiny.remove()
