"""Fixtures that several modules here share."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from . import tiny

CACHE = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """$STREAMZOO_HOME with the tiny student's weights, registered for the module's time.

    The command line keeps its compiled programs there too: undone at the end.
    """
    folder = tmp_path_factory.mktemp("home")
    before = {name: getattr(jax.config, name) for name in CACHE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMZOO_HOME", str(folder))
        tiny.add(folder)
        yield folder
        tiny.remove()
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
