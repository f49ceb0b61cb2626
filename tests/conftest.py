"""Test settings. Compiling is most of the suite's time: the numbers do not need LLVM's best."""

import contextlib
import ctypes
import gc
import importlib.util
import os
from pathlib import Path

import hypothesis
import pytest

from .parity.shim import mend_torchvision

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# One folder of compiled programs for all workers, programs that tests start, and later runs.
COMPILED = Path(__file__).parents[1] / "build" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # most are small, and many
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

if importlib.util.find_spec("torchvision"):
    mend_torchvision()  # before any test imports transformers, which imports it

# how fast examples are drawn says what machine it is, not whether the code is right
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

FULL = 3 << 30  # bytes that a worker may hold; compiled programs are most of it
full = FULL  # of this worker: more, once it holds what cannot be forgotten


def resident() -> int:
    """Bytes of this process that are in memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def pytest_collection_modifyitems(items):
    """Tests of one group stand together: a worker that has one has all, and compiles once."""
    first = {}

    def place(numbered):
        number, item = numbered
        mark = item.get_closest_marker("group")
        key = (item.path, mark.args) if mark else number
        return first.setdefault(key, number), number

    items[:] = [item for _, item in sorted(enumerate(items), key=place)]


def pytest_runtest_teardown(nextitem):
    """Several workers share a machine's memory: one that is full forgets what it compiled."""
    global full
    if nextitem is not None and resident() > full:
        import jax

        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # glibc keeps what it could give back
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        full = max(FULL, resident() + (1 << 30))


@pytest.fixture
def own_compile_cache():
    """JAX as a user starts it, without a folder of compiled programs; undone at the end."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = [n for n in jax.config.values if n.startswith("jax_persistent_cache_min")]
    before = {n: jax.config.values[n] for n in ("jax_compilation_cache_dir", *settings)}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
