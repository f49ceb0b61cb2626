"""Your own videos, without labels, a teacher or a detector of your own.

    python -m streamzoo.train --config configs/own_videos.py --set data.path=VIDEOS

VIDEOS is a folder of two video files or more, searched to the bottom. The teacher is VideoMAE-B,
fine-tuned on the 400 classes of Kinetics by its authors (CC-BY-NC 4.0, not for commercial use;
downloaded once, 350 MB): of all published teachers that load here it is the smallest whose weights
are safetensors. It teaches the whole frame. The detector is the bundled YOLOX-nano (Apache-2.0),
which teaches the student's own person head. A tenth of the files is held out; at the end the
student's agreement with both on them is printed. Both teach while the student trains, so this wants
a GPU; ``configs/folder_student.py`` is the form for a teacher of your own and for a CPU. Not
measured yet: there is no figure to expect.
"""

import dataclasses

from ..train.datasets.folder import FolderData
from ..train.recipe import Model
from .folder_student import CONFIG as FOLDER

CONFIG = dataclasses.replace(
    FOLDER,
    data=FolderData(
        size=(224, 224), frame_rate=8.0, max_boxes=4, detector="yolox-nano/coco", held_out=0.1
    ),
    model=Model("dsta-b16", person=True),
    teacher="hf:MCG-NJU/videomae-base-finetuned-kinetics",
    loop=dataclasses.replace(FOLDER.loop, out="runs/own_videos"),
)
