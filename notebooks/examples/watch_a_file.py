"""What is in a video, frame by frame: python watch_a_file.py [VIDEO] [--model NAME]"""

import argparse

import streamzoo

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("video", nargs="?", help="file, camera number or address (default: the demo)")
parser.add_argument("--model", default="follow-nano/coco", help="a name of `streamzoo list`")
parser.add_argument("--seconds", type=float, default=10.0)
args = parser.parse_args()

if args.video is None:
    from streamzoo.streaming.cli import demo_clip  # of the extra `demo`

    args.video = str(demo_clip())

counts: dict[str, int] = {}
for frame, result in streamzoo.watch(args.video, args.model, seconds=args.seconds):
    for row in result.rows():
        counts[row["label"]] = counts.get(row["label"], 0) + 1
    if frame.index % 10 == 0:  # result.draw(frame) is the picture, uint8 [H, W, 3]
        print(f"{frame.time:6.2f} s  {result.milliseconds:6.1f} ms  {result.rows()}")
print("seen, in frames:", counts)
