"""A cluster of the tiny student, as a program: `python cluster_program.py '{"store": ...}'`.

The first argument holds the fields of :class:`Cluster` as JSON; store, home and port beside them.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

from streamzoo.streaming.cluster import Scaling
from streamzoo.streaming.cluster.launch import Cluster, start, stop, wait
from streamzoo.streaming.serve.server import Settings


def load(home):
    """In every replica; `tests` is on its PYTHONPATH."""
    os.environ["STREAMZOO_HOME"] = home
    import streamzoo
    from tests.streaming import tiny

    tiny.add(Path(home))
    model, params = streamzoo.load(tiny.NAME)
    return model, params, tiny.CARD


def main(words):
    home, store, port = words.pop("home"), Path(words.pop("store")), words.pop("port")
    words["replicas"] = tuple(words["replicas"])
    words["scaling"] = Scaling(**words.get("scaling", {}))
    cluster = Cluster(Settings(port=port, store=store, every=0.1), **words)
    start(cluster, partial(load, home))
    try:
        print("up", flush=True)
        wait()
    finally:
        stop()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
