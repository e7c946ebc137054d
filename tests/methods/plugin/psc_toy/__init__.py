"""A base method of somebody else: values rounded to a step, every fourth slice first."""

from __future__ import annotations

from psc_volumetric.methods.registry import Entry

ENTRY = Entry("toy", 200, "psc_toy.fields:ToyFields", "psc_toy.method:METHOD", in_auto=False)
