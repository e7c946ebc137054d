"""DICOM series, enhanced and multi-frame objects, segmentations and mosaics, in and out."""
