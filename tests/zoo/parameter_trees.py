"""Names and shapes of every registered model's parameters, as they were published.

Weights are saved under these names: a change breaks files that people have. After a change that is
meant, `python -m tests.zoo.parameter_trees` writes parameter_trees.json anew; with patterns of
names behind it (`"depth*"`) those names alone.
"""

import hashlib
import json
import sys
from pathlib import Path

GOLDEN = Path(__file__).with_suffix(".json")


def digest(shapes) -> dict:
    """Variables of arrays or shapes -> leaves, parameters, and a hash of names, shapes, dtypes."""
    from streamzoo.zoo.trees import flatten

    flat = flatten(shapes)
    lines = [f"{name} {list(a.shape)} {a.dtype}" for name, a in sorted(flat.items())]
    return {
        "leaves": len(lines),
        "parameters": sum(a.size for a in flat.values()),
        "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
    }


def golden() -> dict[str, dict]:
    """Name -> digest, of every name that was there when the file was written."""
    return json.loads(GOLDEN.read_text())


def main(patterns: list[str]) -> None:
    from streamzoo.zoo import list_models
    from streamzoo.zoo.weights import shapes_of

    known = golden() if patterns else {}
    fresh = {name for pattern in patterns or ["*"] for name in list_models(pattern)}
    order = [name for name in list_models() if name in fresh or name in known]
    trees = {n: digest(shapes_of(n)) if n in fresh else known[n] for n in order}
    rows = [f"  {json.dumps(name)}: {json.dumps(tree)}" for name, tree in trees.items()]
    GOLDEN.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
