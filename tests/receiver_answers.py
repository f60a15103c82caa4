"""Prints what a receiver answers to a bundle's streams, every digit: run in two environments.

python receiver_answers.py BUNDLE MODEL
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import cdvision

model = cdvision.load(sys.argv[2], threads=1)
answers = {}
for path in sorted((Path(sys.argv[1]) / "streams").glob("*.cdv")):
    found = model.detect(path.read_bytes())
    answers[path.name] = {
        "boxes": found.xyxy.tolist(),
        "confidence": found.confidence.tolist(),
        "class": found.class_name.tolist(),
    }
report = {
    "torch": importlib.util.find_spec("torch") is not None,
    "cdvision": cdvision.__file__,
    "answers": answers,
}
sys.stdout.write(json.dumps(report) + "\n")
