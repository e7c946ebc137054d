"""What a series shows, in words of a closed list: nothing that somebody typed gets out."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

__all__ = ["words_of"]

MODALITIES = {
    "CT": "ct scan", "MR": "mri scan", "PT": "pet scan", "NM": "nuclear medicine scan",
    "US": "ultrasound image", "XA": "angiogram", "CR": "radiograph", "DX": "radiograph",
    "MG": "mammogram", "RTDOSE": "dose distribution", "SEG": "segmentation",
}  # fmt: skip
BODY_PARTS = {
    "ABDOMEN": "abdomen", "ANKLE": "ankle", "BRAIN": "brain", "BREAST": "breast",
    "CHEST": "chest", "CSPINE": "cervical spine", "ELBOW": "elbow", "FOOT": "foot",
    "HAND": "hand", "HEAD": "head", "HEART": "heart", "HIP": "hip", "KIDNEY": "kidney",
    "KNEE": "knee", "LIVER": "liver", "LSPINE": "lumbar spine", "LUNG": "lung", "NECK": "neck",
    "PELVIS": "pelvis", "PROSTATE": "prostate", "SHOULDER": "shoulder", "SKULL": "skull",
    "SPINE": "spine", "TSPINE": "thoracic spine", "WHOLEBODY": "whole body", "WRIST": "wrist",
}  # fmt: skip
PROTOCOLS = {
    "adc": "adc", "angio": "angiography", "bone": "bone", "bold": "bold", "dti": "diffusion",
    "dwi": "diffusion", "diff": "diffusion", "flair": "flair", "lung": "lung", "mra": "angiography",
    "pd": "proton density", "perf": "perfusion", "stir": "stir", "swi": "susceptibility",
    "t1": "t1 weighted", "t1w": "t1 weighted", "t2": "t2 weighted", "t2w": "t2 weighted",
    "tof": "time of flight", "mprage": "t1 weighted", "mpr": "reformatted",
    "contrast": "with contrast", "gd": "with contrast", "axial": "axial", "ax": "axial",
    "tra": "axial", "sag": "sagittal", "cor": "coronal",
}  # fmt: skip
TYPED = ("ProtocolName", "SeriesDescription")


def words_of(ds: Dataset) -> str:
    """Modality, part of the body and class of the protocol, as far as they are on the lists."""
    modality = MODALITIES.get(_text(ds, "Modality").upper(), "scan")
    part = BODY_PARTS.get(re.sub(r"[^A-Z]", "", _text(ds, "BodyPartExamined").upper()))
    typed = " ".join(_text(ds, name) for name in TYPED).lower()
    found = [PROTOCOLS[word] for word in re.split(r"[^a-z0-9]+", typed) if word in PROTOCOLS]
    place = "" if part is None else f" of the {part}"
    return ", ".join([modality + place, *dict.fromkeys(found)])


def _text(ds: Dataset, name: str) -> str:
    found = ds.get(name)
    return found if isinstance(found, str) else ""
