"""A model as ONNX, then a video through it with NumPy, PyAV and ONNX Runtime alone.

Needs the extra `onnxruntime`. The second half imports neither JAX nor streamzoo: it runs the
`loop.py` that lies beside the model, in a process of its own.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import streamzoo.streaming.cli as cli

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("video", help="a video file")
parser.add_argument("--model", default="tsa-lite0/synth")
parser.add_argument("--out", type=Path, default=Path("exported"))
args = parser.parse_args()

words = ["export", args.model, "--to", "onnx", "--out", str(args.out), "--overwrite"]
if code := cli.main(words):
    sys.exit(code)

(card,) = args.out.glob("*.onnx.json")
check = "import sys; sys.modules['jax'] = sys.modules['streamzoo'] = None; "  # an import would fail
run = f"import runpy; sys.argv = ['loop.py', {str(card)!r}, {args.video!r}]; "
loop = f"runpy.run_path({str(args.out / 'loop.py')!r}, run_name='__main__')"
sys.exit(subprocess.run([sys.executable, "-c", check + run + loop], check=False).returncode)
