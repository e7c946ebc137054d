"""Words of the DICOM standard that may leave a header, and names made without header text.

Modality, units, colours and kinds of images are text fields: whoever wrote the file could have put
a patient's name there. Only terms that the standard defines (PS3.3) pass; everything else becomes
a neutral word.
"""

from __future__ import annotations

import hashlib
import hmac

__all__ = [
    "archive_name",
    "known_colours",
    "known_image_type",
    "known_modality",
    "known_syntax",
    "known_ucum",
    "known_unit",
]

_DIGEST_HEX = 20  # 80 bits

_MODALITIES_TEXT = """
    ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM
    HC HD IO IOL IVOCT IVUS KER KO LEN LS MG MR M3D NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV
    OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD
    RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC AS CD CF
    CP CS DD DF DM DS EC FA FS LP MA MS OPENT ST TM VF
"""  # PS3.3 C.7.3.1.1.1, retired terms included
_MODALITIES = frozenset(_MODALITIES_TEXT.split())
_UNITS_TEXT = """
    HU OD MGML Z_EFF ED EDW HU_MOD PCT CNTS CM2 CM2ML PCNT CPS BQML MGMINML UMOLMINML MLMING MLG
    1CM UMOLML PROPCNTS PROPCPS MLMINML MLML GML STDDEV
"""  # RescaleType (C.11.1.1.2) and Units of PET (C.8.9.1.1.3)
_UNITS = {unit: unit for unit in _UNITS_TEXT.split()} | {"GY": "Gy", "RELATIVE": "1"}  # of dose
_UCUM_TEXT = """
    1 % [ppm] ppm {ratio} {counts} ns us ms s min h /s 1/s /min 1/min Hz kHz MHz um mm cm m um2 mm2
    um2/s mm2/s 10-6.mm2/s 10-3.mm2/s mm/s cm/s m/s mm3 cm3 ml l g kg g/ml g/cm3 mg/ml {SUVbw}g/ml
    {SUVlbm}g/ml {SUVbsa}cm2/ml {SUVibw}g/ml Bq/ml kBq/ml MBq/ml ml/min ml/min/g ml/min/ml
    ml/min/100g ml/min/100ml ml/(min.100g) ml/(min.100ml) ml/100ml ml/100g mmol/l umol/l mmol/kg
    Gy cGy Gy/h Pa kPa uT mT T rad deg K Cel [hnsf'U] HU
"""  # units of parametric maps (PS3.16 CID 7180 and others), as UCUM writes them
_UCUM = frozenset(_UCUM_TEXT.split())
_COLOURS_TEXT = """
    MONOCHROME1 MONOCHROME2 RGB HSV ARGB CMYK XYB YBR_FULL YBR_FULL_422 YBR_PARTIAL_422
    YBR_PARTIAL_420 YBR_ICT YBR_RCT
"""  # C.7.6.3.1.2
_COLOURS = frozenset(_COLOURS_TEXT.split()) | {"PALETTE COLOR"}
_IMAGE_TYPES_TEXT = """
    ORIGINAL DERIVED PRIMARY SECONDARY MIXED AXIAL LOCALIZER MPR VOLUME MOSAIC PROJECTION
    REFORMATTED RESAMPLED NONE OTHER M P R I MAGNITUDE PHASE REAL IMAGINARY COMPLEX W F IP OP
    WATER FAT IN_PHASE OUT_PHASE OPP_PHASE ADC TRACE TRACEW FA FAC DIFFUSION DIFFUSION_ANISO
    ISOTROPIC ANISOTROPIC T1 T2 T2_STAR R2_STAR B0 ASL PERFUSION VELOCITY FLOW FMRI SE FFE IR
    M_SE P_SE R_SE M_FFE P_FFE R_FFE I_FFE M_IR NORM ND DIS2D DIS3D STATIC DYNAMIC GATED
    WHOLE_BODY TOMO RECON RECON_TOMO RECON_GATED EMISSION TRANSMISSION MIN_IP MAX_IP MEAN
    AVERAGE SUBTRACT FILTERED
"""  # values of ImageType and FrameType that say what was measured
_IMAGE_TYPES = frozenset(_IMAGE_TYPES_TEXT.split())


def known_modality(text: str) -> str:
    """Give a modality that the standard defines; ``"OT"``, its word for other, for all else."""
    code = text.strip().upper()
    return code if code in _MODALITIES else "OT"


def known_unit(text: str) -> str | None:
    """Give a unit that the standard defines, as it is shown; None for all else."""
    return _UNITS.get(text.strip().upper())


def known_ucum(text: str) -> str | None:
    """Give a unit of UCUM that measurements have; None for all else."""
    unit = text.strip()
    return {"[hnsf'U]": "HU"}.get(unit, unit) if unit in _UCUM else None


def known_colours(text: str) -> str:
    """Give a photometric interpretation that the standard defines, else ``"unknown"``."""
    return text if text in _COLOURS else "unknown"


def known_image_type(text: str) -> str:
    """Give one value of ImageType that says what was measured; empty for all else."""
    return text if text in _IMAGE_TYPES else ""


def known_syntax(uid: str) -> str:
    """Give a transfer syntax UID of the standard's root, else ``"unknown"``."""
    plain = uid.startswith("1.2.840.10008.1.2") and uid.replace(".", "").isdigit()
    return uid if plain and len(uid) <= 64 else "unknown"


def archive_name(modality: str, identity: str, key: bytes | None = None) -> str:
    """Give the name of an archive: a modality of the standard and a digest of 80 bits.

    Parameters
    ----------
    modality : str
        As the header has it; see `known_modality`.
    identity : str
        What tells this source from all others: ``Candidate.key`` of a DICOM candidate.
    key : bytes, optional
        A secret: without it nobody can tell from a UID which archive is its own (HMAC-SHA-256).
    """
    data = identity.encode()
    if key is None:
        digest = hashlib.sha256(data).hexdigest()
    else:
        digest = hmac.new(key, data, hashlib.sha256).hexdigest()
    return f"{known_modality(modality).lower()}-{digest[:_DIGEST_HEX]}"
