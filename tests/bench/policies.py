"""Which memory policy holds an answer how far back, at which price; and a long soak.

    python tests/bench/policies.py [--frames 10600] [--seeds 3] [--soak 100000] [--only NAME ...]

With --only the other rows stay as they are in results/policies.json; --untimed records no times.

A synthetic stream: a still scene with noise that changes now and then; at some moments an object is
shown for two frames, with a state. At the end it is asked in which state each object was. The body
is made by hand, so that nothing but the memory is under test: one layer of attention that looks up
by content (no rotary embedding) and a head that reads the state. Results: results/policies.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.layers.memory import bytes_of
from streamzoo.layers.memory.flash import FlashMemory
from streamzoo.layers.memory.star import StarMemory
from streamzoo.layers.memory.tree import ClusterTree
from streamzoo.layers.policies import (
    Contiguous,
    Dual,
    LiveVLM,
    Policy,
    Recent,
    ReSV,
    Retrieves,
    StreamingVLM,
    create,
)
from streamzoo.layers.policies import streaming_vlm as vlm
from streamzoo.layers.policies.longvu import AnchorDrop
from streamzoo.layers.policies.rekv import ReKV
from streamzoo.layers.policies.systems import Bank
from streamzoo.layers.policies.token_drop import Novelty, TokenDrop
from streamzoo.zoo.text import Decoder, DecoderConfig

RESULTS = Path(__file__).parent / "results"
DIM, IDS, CELLS, STATES = 64, 32, 4, 16  # of a token; of them say who; tokens of a frame; answers
LAGS = (10, 30, 100, 300, 1000, 3000, 10_000)
EACH = 6  # objects at each lag
BUDGET = 1024  # slots of a small memory


@dataclass(frozen=True)
class Case:
    """A policy of the table: what is kept, what is left out before, whether events are said."""

    policy: Policy
    drop: Any = None
    words: bool = False
    bank: Bank | None = None


def cases(frames: int) -> dict[str, Case]:
    whole = frames * CELLS
    rest = (whole - 4) // CELLS * CELLS
    return {
        "full": Case(Recent(0, whole)),
        "rekv": Case(ReKV(4 + rest, 4, 512, frame=CELLS, top=8)),
        "streaming-llm": Case(Recent(4, BUDGET - 4, "cache")),
        "contiguous": Case(Contiguous(BUDGET)),
        "streaming-vlm": Case(StreamingVLM(BUDGET, 16, 128, 256, 256), words=True),
        "vst": Case(create("vst", BUDGET), words=True),
        "livevlm": Case(LiveVLM(4, 764, 256, buckets=191, top=64)),
        "resv": Case(ReSV(whole, clusters=256)),
        "dual": Case(Dual(BUDGET - 256, 256), words=True),
        "dtd": Case(Recent(0, BUDGET), TokenDrop(threshold=0.3)),
        "stc": Case(Recent(0, BUDGET), Novelty(keep=1)),
        "longvu (stage 4)": Case(Recent(0, BUDGET), AnchorDrop(8, 0.8)),
        "flash-vstream-2024": Case(
            Recent(0, BUDGET),
            bank=StarMemory(DIM, long=32, side=2, abstract=8, keys=3, bank=16, width=8),
        ),
        "flash-vstream-2025": Case(Recent(0, BUDGET), bank=FlashMemory(32, 2, 8, 16)),
        "videotree": Case(Recent(0, BUDGET), bank=ClusterTree(64, 2, 4, 16)),
    }


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def stream(frames: int, seed: int) -> dict[str, np.ndarray]:
    """shown [F, P, D], said [F, D] and where [F]; asked [Q, D], answer [Q], lag [Q]."""
    rng = np.random.default_rng(seed)
    lags = np.repeat([lag for lag in LAGS if lag < frames - 40], EACH)
    who = unit(rng.standard_normal((len(lags), IDS)))
    states = unit(rng.standard_normal((STATES, DIM - IDS)))
    answer = rng.integers(0, STATES, len(lags))
    scenes = unit(rng.standard_normal((frames // 500 + 1, CELLS, DIM)))
    shown = scenes[np.arange(frames) // 500] + 0.02 * rng.standard_normal((frames, CELLS, DIM))
    said, where, used = np.zeros((frames, DIM)), np.zeros(frames, bool), set[int]()
    for i, lag in enumerate(lags):
        # within 5 % of the lag, two frames each, none on another
        near = [int(lag * (0.95 + 0.1 * x)) for x in rng.permutation(60) / 60]
        back = next(n for n in [*near, *range(lag, lag + 40)] if not {n, n - 1} & used)
        used |= {back, back - 1}
        at = frames - 1 - back
        token = np.concatenate([who[i], states[answer[i]]]) / np.sqrt(2)
        shown[at : at + 2, rng.integers(CELLS)] = token
        said[at], where[at] = token, True
    asked = np.concatenate([who, np.zeros((len(who), DIM - IDS))], axis=1)
    made = dict(shown=unit(shown), said=said, where=where, asked=asked, answer=answer, lag=lags)
    made["states"] = states
    return {k: v.astype(np.float32) if v.dtype == float else v for k, v in made.items()}


def body(policy: Policy, states: np.ndarray) -> tuple[Decoder, Any]:
    """Attention that looks up by content, without training."""
    model = Decoder(
        DecoderConfig(
            vocabulary=STATES, dim=DIM, hidden=DIM, depth=1, heads=1, kv_heads=1, head_dim=DIM,
            tied=False, unturned=1, policy=policy, start=0, end=0,
        )
    )  # fmt: skip
    init = model.init(jax.random.key(0), model.init_carry(1), jnp.zeros((1, 1), jnp.int32))
    params = jax.tree.map(jnp.zeros_like, init["params"])
    who = np.diag(np.arange(DIM) < IDS).astype(np.float32)
    state = np.diag(np.arange(DIM) >= IDS).astype(np.float32)
    block = params["blocks"]["layer0"]
    block["norm1"]["scale"] = block["norm2"]["scale"] = jnp.ones((1, DIM))
    block["attn"]["qkv"]["kernel"] = jnp.concatenate([6 * who, who, state], axis=1)[None]
    block["attn"]["out"]["kernel"] = jnp.asarray(state)[None]
    params["norm"]["scale"] = jnp.ones(DIM)
    head = np.zeros((DIM, STATES), np.float32)
    head[IDS:] = states.T
    params["head"]["kernel"] = jnp.asarray(head)
    return model, {"params": params}


class Run:
    """One policy on streams."""

    def __init__(self, case: Case, states: np.ndarray):
        self.case = case
        self.model, self.variables = body(case.policy, states)
        self.star: Any = {}
        if isinstance(case.bank, StarMemory):
            self.star = case.bank.init(
                jax.random.key(1), case.bank.init_carry(1, CELLS), jnp.zeros((1, 1, CELLS, DIM))
            )

    def begin(self) -> Any:
        drop, bank = self.case.drop, self.case.bank
        if isinstance(bank, StarMemory):
            return bank.init_carry(1, CELLS)
        if bank is not None:
            return bank.init_carry(1, CELLS, DIM)
        before: Any = ()
        if isinstance(drop, (TokenDrop, AnchorDrop)):
            before = drop.init_carry(1, CELLS, DIM)
        elif isinstance(drop, Novelty):
            before = drop.init_carry(1, DIM)
        return self.model.init_carry(1), before

    @functools.partial(jax.jit, static_argnums=(0, 6), donate_argnums=1)
    def see(
        self, carry: Any, first: Any, shown: Any, said: Any, where: Any, whole: bool = True
    ) -> Any:
        """Frames one by one, shown [F, P, D] -> (carry, what depends on all that was read).

        Without ``whole`` the compiler leaves out what the memory does not depend on, which in a
        body of one layer is the attention: the same carry, sooner.
        """

        def step(carry, now):
            number, frame, word, there = now
            bank: Any = self.case.bank
            if bank is not None:
                if self.star:
                    carry, read = bank.apply(self.star, carry, frame[None, None])
                else:
                    carry, read = bank(carry, frame[None, None])
                return carry, read.sum()
            memory, before = carry
            valid = jnp.ones((1, CELLS), bool)
            if self.case.drop is not None:
                before, stay = self.case.drop(before, frame[None, None])
                valid = stay[:, 0]
            told, x = {}, frame[None]
            if self.case.words:
                x = jnp.concatenate([x, word[None, None]], axis=1)
                valid = jnp.concatenate([valid, there[None, None]], axis=1)
                spoken = jnp.arange(CELLS + 1) == CELLS
                if isinstance(self.case.policy, StreamingVLM):
                    memory = self.case.policy.begin_turn(memory, number)
                    told = {
                        "segment": jnp.full((1, CELLS + 1), vlm.TALK),
                        "turn": jnp.full((1, CELLS + 1), number),
                        "role": jnp.where(spoken, vlm.WORD, vlm.VISION)[None],
                    }
                else:
                    told = {"segment": spoken[None].astype(jnp.int32)}
            memory, read = self.read(memory, x, valid, told)
            return (memory, before), read.sum()

        numbers = first + jnp.arange(shown.shape[0], dtype=jnp.int32)
        carry, read = jax.lax.scan(step, carry, (numbers, shown, said, where))
        return (carry, read) if whole else (carry, ())

    def read(self, memory: Any, x: Any, valid: Any, told: Any) -> Any:
        apply: Any = self.model.apply
        return apply(
            self.variables, memory, None, valid, features=x, told=told, method=Decoder.read
        )

    @functools.partial(jax.jit, static_argnums=0)
    def answer(self, carry: Any, asked: Any) -> Any:
        """asked [Q, D] -> the most likely states [Q]; nothing of it stays."""
        apply: Any = self.model.apply
        one = jnp.ones((1, 1), bool)

        def ask(question):
            if isinstance(self.case.policy, Retrieves):
                # its questions are tokens: this one is embedded in their place
                params = {**self.variables["params"]}
                params["embed"] = {"embedding": jnp.tile(question[None], (STATES, 1))}
                logits = apply(
                    {"params": params}, carry[0], jnp.zeros((1, 1), jnp.int32), one,
                    room=1, method=Decoder.ask,
                )[1]  # fmt: skip
                return logits[0, -1].argmax()
            bank: Any = self.case.bank
            if bank is not None:
                tree = isinstance(bank, ClusterTree)
                tokens = bank.tokens(carry, question[None, None]) if tree else bank.tokens(carry)
                memory, _ = self.read(self.model.init_carry(1), tokens, None, {})
            else:
                memory = carry[0]
            told = {}
            if isinstance(self.case.policy, Dual):
                told = {"segment": jnp.ones((1, 1), jnp.int32)}
            if isinstance(self.case.policy, StreamingVLM):
                told = {"segment": jnp.full((1, 1), vlm.TALK)}
            _, x = self.read(memory, question[None, None], one, told)
            return apply(self.variables, x, method=Decoder.say)[0, -1].argmax()

        return jax.lax.map(ask, asked)


def measure(name: str, case: Case, frames: int, seeds: int, timed: bool) -> dict[str, Any]:
    right, frame_ms, first_ms, size = {}, [], [], 0
    for seed in range(seeds):
        made = stream(frames, seed)
        run = Run(case, made["states"])
        carry, part = run.begin(), 100
        for at in range(0, frames, part):
            own = [jnp.asarray(made[k][at : at + part]) for k in ("shown", "said", "where")]
            late = at > frames - 8 * part and len(own[0]) == part
            start = time.perf_counter()
            carry, _ = jax.block_until_ready(run.see(carry, jnp.int32(at), *own, late))
            if late:
                frame_ms.append(1e3 * (time.perf_counter() - start) / part)
        said = np.asarray(run.answer(carry, jnp.asarray(made["asked"])))
        one = jnp.asarray(made["asked"][:1])
        for _ in range(6):
            start = time.perf_counter()
            jax.block_until_ready(run.answer(carry, one))
            first_ms.append(1e3 * (time.perf_counter() - start))
        for lag in sorted(set(made["lag"].tolist())):
            own = made["lag"] == lag
            right.setdefault(lag, []).append(float((said == made["answer"])[own].mean()))
        size = bytes_of(carry)
    row: dict[str, Any] = dict(
        policy=name, frames=frames, bytes=size,
        frame_ms=float(np.median(frame_ms)) if timed else None,
        first_ms=float(np.median(first_ms)) if timed else None,
        accuracy={str(k): np.mean(v) for k, v in right.items()},
        spread=float(np.std([np.mean([v[s] for v in right.values()]) for s in range(seeds)])),
    )  # fmt: skip
    row["mean"] = float(np.mean(list(row["accuracy"].values())))
    print(json.dumps(row), flush=True)
    return row


def soak(frames: int) -> dict[str, Any]:
    """A long stream under streaming-llm: the carry, memory, times, and what re-sending costs."""
    made = stream(2000, 0)
    run = Run(Case(Recent(4, BUDGET - 4, "cache")), made["states"])
    own = [jnp.asarray(made[k][:1000]) for k in ("shown", "said", "where")]
    carry, _ = run.see(run.begin(), jnp.int32(0), *own)
    one = jnp.asarray(made["asked"][:1])
    run.answer(carry, one)
    rows = []
    for at in range(1000, frames + 1, 1000):
        start = time.perf_counter()
        carry, _ = jax.block_until_ready(run.see(carry, jnp.int32(at), *own))
        step = 1e3 * (time.perf_counter() - start) / 1000
        start = time.perf_counter()
        jax.block_until_ready(run.answer(carry, one))
        first = 1e3 * (time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append((at, bytes_of(carry), peak, step, first))
    window = jnp.asarray(made["shown"][: BUDGET // CELLS].reshape(1, -1, DIM))
    again = jax.jit(lambda x: run.read(run.model.init_carry(1), x, None, {})[1])
    jax.block_until_ready(again(window))
    start = time.perf_counter()
    for _ in range(5):
        jax.block_until_ready(again(window))
    resend = 1e3 * (time.perf_counter() - start) / 5
    table = np.asarray(rows)
    tenth = max(1, len(table) // 10)
    early, late = table[:tenth], table[-tenth:]
    return dict(
        frames=frames, bytes=sorted(set(table[:, 1].astype(int).tolist())),
        rss_mb=[float(early[-1, 2]), float(late[-1, 2])],
        step_ms=[float(np.median(early[:, 3])), float(np.median(late[:, 3]))],
        first_ms=[float(np.median(early[:, 4])), float(np.median(late[:, 4]))],
        resend_ms=resend,
    )  # fmt: skip


def page(rows: list[dict[str, Any]], long: dict[str, Any] | None, args: Any) -> str:
    full = next(row for row in rows if row["policy"] == "full")
    shorter = [row for row in rows if row["frames"] != full["frames"]]
    rows = [row for row in rows if row["frames"] == full["frames"]]
    lags = list(full["accuracy"])
    head = "".join(f" {lag} |" for lag in lags)
    lines = [
        "# Which policy holds an answer how far back",
        "",
        f"Made by `python tests/bench/policies.py --frames {full['frames']} --seeds {args.seeds}`"
        f" (last row on {time.strftime('%Y-%m-%d')}), jax {jax.__version__} on"
        f" {jax.default_backend()}; other work ran on the machine, so times are for comparison"
        " within the table.",
        "",
        f"{full['frames']} frames of {CELLS} tokens; an object is shown for two frames, and asked"
        f" for at the end. {EACH} objects at each lag, {args.seeds} streams, {STATES} possible"
        " answers"
        f" (chance {100 / STATES:.0f} %). The body looks up by content and is made by hand: the"
        " memory alone is under test. Where events are said, a perfect describer says each object"
        " once, as it comes.",
        "",
        f"| policy | events said | bytes | of full | ms per frame | first word, ms |{head} mean"
        " | over seeds |",
        "|---|---|---|---|---|---|" + "---|" * (len(lags) + 2),
    ]
    known = cases(full["frames"])
    took = lambda ms: "–" if ms is None else f"{ms:.2f}"
    for row in [*rows, *shorter]:
        parts = "".join(
            f" {100 * row['accuracy'][lag]:.0f} |" if lag in row["accuracy"] else " – |"
            for lag in lags
        )
        # what full would take of as many frames
        share = row["bytes"] / (full["bytes"] * row["frames"] / full["frames"])
        length = "" if row["frames"] == full["frames"] else f" ({row['frames']:,} frames)"
        lines.append(
            f"| {row['policy']}{length} | {'yes' if known[row['policy']].words else 'no'} |"
            f" {row['bytes']:,} | {100 * share:.1f} % |"
            f" {took(row['frame_ms'])} | {took(row['first_ms'])} |{parts}"
            f" {100 * row['mean']:.1f} | ± {100 * row['spread']:.1f} |"
        )
    small = [
        r for r in rows
        if r is not full and r["bytes"] <= 0.05 * full["bytes"] and full["mean"] - r["mean"] <= 0.02
    ]  # fmt: skip
    names = ", ".join(r["policy"] for r in small) or "none"
    if shorter:
        frames = shorter[0]["frames"]
        lines += [
            "",
            f"Rows of {frames:,} frames: `python tests/bench/policies.py --only NAME --frames"
            f" {frames} --untimed --soak 0`; their share is of what full takes of as many frames.",
        ]
    lines += [
        "",
        f"Within 2 points of full at 5 % of its bytes or fewer: **{names}**.",
        "",
        "LiveVLM answers from the pages that suit the question; what nobody looks at leaves, also"
        " what is asked later. ReSV keeps everything, and reads the clusters that weigh most.",
        "",
        "`livestar` is not among them: it chooses by the perplexity of captions; there are none.",
    ]
    if long is not None:
        step, first = long["step_ms"], long["first_ms"]
        lines += [
            "",
            "## A long stream",
            "",
            f"`streaming-llm`, {long['frames']:,} frames: the carry is"
            f" {', '.join(f'{b:,}' for b in long['bytes'])} bytes throughout; peak resident memory"
            f" {long['rss_mb'][0]:.0f} MB after the first tenth, {long['rss_mb'][1]:.0f} MB at the"
            f" end; a frame takes {step[0]:.3f} ms in the first tenth and {step[1]:.3f} ms in the"
            f" last ({step[1] / step[0]:.2f} times); the first word {first[0]:.2f} and"
            f" {first[1]:.2f} ms. Sending the window of {BUDGET} tokens again takes"
            f" {long['resend_ms']:.2f} ms.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=10_600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--soak", type=int, default=100_000)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--untimed", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    known = cases(args.frames)
    before: dict[str, Any] = {"rows": [], "soak": None}
    if args.only:
        before = json.loads((args.out / "policies.json").read_text())
    had = {row["policy"]: row for row in before["rows"]}
    long = before["soak"]

    def write() -> None:
        rows = [had[name] for name in known if name in had]
        (args.out / "policies.json").write_text(json.dumps({"rows": rows, "soak": long}, indent=1))
        if "full" in had:
            (args.out / "policies.md").write_text(page(rows, long, args))

    for name, case in known.items():
        if not args.only or name in args.only:
            had[name] = measure(name, case, args.frames, args.seeds, not args.untimed)
            write()  # who stops it loses one row
    if args.soak:
        long = soak(args.soak)
    write()


if __name__ == "__main__":
    main()
