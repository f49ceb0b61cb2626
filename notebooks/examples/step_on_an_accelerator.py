"""The step of a stream for a TPU or a GPU: which kernels it takes, and a file that runs there.

Nothing of it needs the chip: the program is lowered for it here, and compiled where it runs.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

import streamzoo
from streamzoo.layers import kernels

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--platform", default="tpu", choices=["cpu", "cuda", "tpu"])
parser.add_argument("--streams", type=int, default=8)
parser.add_argument("--out", type=Path, default=Path("step.bin"))
args = parser.parse_args()

model, params = streamzoo.init_params(
    "gdn-s16", image_size=(64, 64), dim=128, depth=2, heads_per_block=2, dtype="bfloat16"
)
carry = model.init_carry(args.streams)
frames = jnp.zeros((args.streams, 1, 64, 64, 3), jnp.bfloat16)

print(kernels.explain(model.apply, params, carry, frames))

step = jax.jit(model.apply, donate_argnums=1)  # the carry is changed in place
allowed = [export.DisabledSafetyCheck.custom_call(name) for name in ("__gpu$xla.gpu.triton",)]
program = export.export(step, platforms=[args.platform], disabled_checks=allowed)
args.out.write_bytes(program(params, carry, frames).serialize())
print(f"{args.out}: {args.out.stat().st_size:,} bytes for {args.platform}")

# On the machine with the chip: jax.export.deserialize(bytes).call(params, carry, frames), or
# simply this file, as jit compiles for what is there:
if jax.default_backend() != "cpu" or args.platform == "cpu":
    carry, out = step(params, carry, frames)
    print("answered on", jax.default_backend(), jax.tree.leaves(out)[0].shape)
