"""Training of posterior networks: ``python -m pipelines.posterior``, or ``make train-gpu``.

A training machine may have little installed. The path from a pack to checkpoints needs torch,
numpy and safetensors only; packing reads sources and needs the whole environment.
"""
