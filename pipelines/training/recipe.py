"""What a prior depends on besides the files in its data folders, as plain JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.training.train import TrainingSettings
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.making.networks import Architecture

__all__ = ["Recipe"]

RECIPES = Path(__file__).with_name("recipes")


@dataclass(frozen=True)
class Recipe:
    """Everything a prior depends on besides the files in its data folders.

    Attributes
    ----------
    name, description, modality : str
        As shown by ``psc-archive prior list``.
    architecture, settings
        Network and training.
    hounsfield : bool
        Train on volumes in Hounsfield units only.
    frames : int
        Frames of the axes before the last three to train on, at most; 0 means all.
    held_out : tuple of str
        A file whose path contains one of these belongs to the held-out side; patterns name
        patients or sources, never slices.
    levels : int
        Noise levels tabulated in the prior.
    clip : (low, high)
        Range of denoised samples, normalised units.
    calibration_tiles : int
        Tiles for the scale tables.
    start : str
        Installed prior of the same architecture to go on training from; empty: random weights.
    data_notes : str
        Licences of the training data and what is known about the split, for the model card.
    synthetic : int
        Smooth random volumes to add to the training side (``test-tiny``).
    """

    name: str
    description: str
    modality: str
    architecture: Architecture
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    hounsfield: bool = False
    frames: int = 1
    held_out: tuple[str, ...] = ()
    levels: int = 64
    clip: tuple[float, float] = (-1.1, 2.2)
    calibration_tiles: int = 8
    start: str = ""
    data_notes: str = ""
    synthetic: int = 0

    @classmethod
    def load(cls, name_or_path: str) -> Recipe:
        """Read a shipped recipe by name, or a recipe file."""
        path = RECIPES / f"{name_or_path}.json"
        path = path if path.is_file() else Path(name_or_path)
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.json")))
            raise ParameterError(
                f"recipe {name_or_path!r}: expected one of {known} or a JSON file",
                kind="unknown-recipe",
            )
        try:
            return cls.from_dict(json.loads(path.read_text("utf-8")))
        except ValueError as error:
            raise ParameterError(
                f"recipe {path}: expected JSON, found otherwise ({error})",
                kind="bad-recipe",
                hint="where it is one that ships, install psc-archive again",
            ) from error

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Rebuild from JSON; unknown keys are refused."""
        unknown = set(data) - set(cls.__dataclass_fields__)
        if unknown:
            raise ParameterError(f"recipe: unknown keys {sorted(unknown)}", kind="bad-recipe")
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        values["architecture"] = Architecture.from_dict(data["architecture"])
        settings: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.get("settings", {}).items()
        }
        values["settings"] = TrainingSettings(**settings)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        data = asdict(self)
        data["architecture"] = self.architecture.to_dict()
        return data
