"""The posterior network of a domain that ships, to train on from."""

from __future__ import annotations

from pipelines.training.posterior.train import Checkpoint
from pipelines.training.warm_start import posterior_network
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior import installed_posteriors, load_prior
from psc_volumetric.prior.finding import newest

__all__ = ["shipped_checkpoint"]


def shipped_checkpoint(domain: str) -> tuple[Checkpoint, str]:
    """The newest network of a domain as floats, with the training that it had, and its name.

    Raises
    ------
    ParameterError
        None ships (kind ``"bad-start"``).
    """
    names = installed_posteriors()
    name = newest(domain, "-posterior", names)
    if name not in names:
        raise ParameterError(
            f"{domain}: expected a posterior network that ships, found "
            f"{', '.join(sorted(names)) or 'none'}",
            kind="bad-start",
            hint="leave out --shipped: training begins from first weights",
        )
    prior = load_prior(name)
    net, told = posterior_network(prior), prior.metadata["training"]
    return Checkpoint.of(net, int(told["steps"]), float(told["seconds"])), name
