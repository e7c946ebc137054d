"""Views of a stream: other volumes that the same bytes may stand for.

A decoder gives the mean, which is nearest to the source and smoother than it. A view has detail
that the bytes leave open: drawn, not measured. No exact layer stands on a view, and nothing is
coded against one.
"""

from __future__ import annotations

from psc_volumetric.views.request import GENERATED, MEAN, VIEWS, ViewRequest

__all__ = ["GENERATED", "MEAN", "VIEWS", "ViewRequest"]
