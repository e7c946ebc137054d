"""Networks that ship, to train on from: the posterior network of a domain, or its denoiser."""

from __future__ import annotations

from pipelines.training.posterior.denoisers import begin_as_denoiser
from pipelines.training.posterior.domains import Domain
from pipelines.training.posterior.train import Checkpoint
from pipelines.training.warm_start import posterior_network
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior import installed_posteriors, load_prior
from psc_volumetric.prior.finding import newest

__all__ = ["denoiser_checkpoint", "shipped_checkpoint"]


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


def denoiser_checkpoint(domain: Domain, seed: int) -> Checkpoint:
    """A network of the domain's shape that begins with the weights of the domain's denoiser.

    Raises
    ------
    ParameterError
        They do not fit (kind ``"bad-start"``).
    """
    net = Checkpoint.new(domain.shape, seed).net
    return Checkpoint.of(begin_as_denoiser(net, domain))
