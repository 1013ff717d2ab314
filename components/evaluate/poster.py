"""What the poster printed, and how its networks were trained: what a comparison with it is read against."""

from typing import Any

PUBLISHED_WEIGHTS = "published"
OURS = "dilran-sfnn"

PRINTED: dict[str, dict[str, float]] = {
    name: dict(zip(("psnr", "ssim", "mi", "fmi", "fsim", "en"), values, strict=True))
    for name, values in {
        "zero-learning": (13.525, 0.681, 4.633, 0.836, 0.738, 4.279),
        "msrpan": (15.693, 0.697, 4.586, 0.867, 0.797, 8.167),
        "msdra": (14.528, 0.741, 4.652, 0.874, 0.808, 8.969),
        OURS: (18.258, 0.740, 4.558, 0.891, 0.829, 9.887),
        "dilran-mse-sfnn": (18.610, 0.739, 4.428, 0.890, 0.829, 8.634),
        PUBLISHED_WEIGHTS: (18.258, 0.740, 4.558, 0.891, 0.829, 9.887),
    }.items()
}
"""The poster's means over its 20 test pairs, by method and measure; the published weights are those of its "Ours"."""

GROUPS = {
    "The poster's table": ("zero-learning", "msrpan", "msdra", OURS),
    "The poster's ablation": ("dilran-mse-sfnn",),
    "The authors' published weights": (PUBLISHED_WEIGHTS,),
    "Named in the poster, without figures": ("shearlet-cnn",),
    "Not in the poster": ("dilran", "maximum"),
}
"""The rows of a comparison with the poster, under their headings; a method beyond these is not in the poster."""

TITLES = {OURS: "Ours: SFNN, all losses", "dilran-mse-sfnn": "Ours: SFNN, only MSE"}

MEASURE_NOTES = (
    "MI of the poster protocol is no mutual information: the published routine gives the entropy of the fused image "
    "saved as 8-bit JPEG. Its EN counts distinct floating-point values, so it can exceed the 8 bits of a grey image.",
    'The published weights give every printed figure of "Ours" but MI: 4.558 comes out where SFNN weighs by the norm '
    "instead of its square, so it is probably of another run.",
)

_PUBLISHED = {
    "epochs": 100,
    "batch": 4,
    "crop": 0,
    "learning_rate": 1e-4,
    "schedule": "constant",
    "statistics": "batch",
    "perceptual": "vgg16-bn",
    "seed": 3407,
    "processes": 1,
}
_PHRASES = {
    "pretrain_steps": "{} steps of pre-training",
    "steps": "{} steps",
    "epochs": "{} epochs",
    "batch": "batches of {}",
    "crop": "crops of {} pixels",
    "learning_rate": "learning rate {}",
    "schedule": "{} schedule",
    "statistics": "BatchNorm by the {}",
    "perceptual": "perceptual loss on {}",
    "seed": "seed {}",
    "processes": "processes: {}",
}
_WORDS: dict[tuple[str, object], str] = {("crop", 0): "whole images", ("perceptual", "none"): "no perceptual loss"}


def training_note(training: dict[str, Any], network: str) -> str:
    """How a network was trained here, by its `training.json`, and where the published training differs; "" if unknown.

    Only the published network's own settings are known; of the others it says how they were trained here.
    """
    here = {key: training[key] for key in _PHRASES if key in training}
    if network == "dilran-mse":
        here.pop("perceptual", None)
    if network.startswith("dilran"):
        says = [
            f"{_say(key, value)} (published: {_WORDS.get((key, _PUBLISHED[key]), _PUBLISHED[key])})"
            for key, value in here.items()
            if key in _PUBLISHED and value != _PUBLISHED[key]
        ]
    else:
        says = [_say(key, value) for key, value in here.items()]
    if not here:
        return ""
    return f"trained here with {_listed(says)}" if says else "trained here with the published settings"


def _say(key: str, value: object) -> str:
    return _WORDS.get((key, value)) or _PHRASES[key].format(value)


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]
