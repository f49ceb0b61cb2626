"""Which implementation of each operation the registered models' steps take.

    python -m tests.bench.kernel_models     # writes results/kernel_models.md

Nothing is computed: each model is traced for one frame of one stream at its own size. Names with
weights take what their architecture takes. A GPU's column needs jax >= 0.11 to hold kernels.
"""

from __future__ import annotations

from pathlib import Path

import jax

from streamzoo.layers.kernels.explain import CALLED
from streamzoo.zoo import list_models, model_card
from streamzoo.zoo.explain import explain_model

OUT = Path(__file__).parent / "results" / "kernel_models.md"
PLATFORMS = ("cpu", "tpu", "cuda")


def row(name: str) -> list[str]:
    """A line per operation of a model; none where no operation has a choice."""
    took: dict[str, dict[str, set[str]]] = {}
    why: dict[str, str] = {}
    for choice in explain_model(model_card(name)).choices:
        took.setdefault(choice.op, {}).setdefault(choice.platform, set()).add(choice.implementation)
        if choice.platform == "tpu":
            for backend, reason in choice.refused.items():
                why[choice.op] = f"{backend}: {reason}"
    lines = []
    for op, by in took.items():
        cells = [" and ".join(sorted(by[platform])) for platform in PLATFORMS]
        lines.append(f"| {name} | {op} | {' | '.join(cells)} | {why.get(op, '')} |")
    return lines


def main() -> None:
    """Writes the table."""
    names = [n for n in list_models() if "/" not in n and model_card(n).streaming]
    names = [n for n in names if model_card(n).task not in ("track", "speech", "generate")]
    head = ["model", "operation", *(CALLED.get(p, p) for p in PLATFORMS), "why no kernel on a TPU"]
    lines = [
        "# Kernels that registered models take",
        "",
        f"`python -m tests.bench.kernel_models`; jax {jax.__version__}; one frame of one stream.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for name in names:
        found = row(name)
        lines += found
        print(name, len(found), flush=True)
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
