"""The method ``foresight``: ``posterior``, whose network also foresees the finer coefficients."""
