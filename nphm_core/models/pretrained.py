"""The head model that comes with the project, for whoever has no scans to train on.

Trained on 300 synthetic subjects with 20 expressions each, made from CC0 data; its card is README.md in its folder.
"""

from pathlib import Path


def pretrained_folder() -> Path:
    """Give the folder of the model, for `from_pretrained`."""
    return Path(__file__).parents[1] / "pretrained"
