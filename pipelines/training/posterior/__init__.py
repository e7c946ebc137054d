"""Training of posterior networks: ``make train-gpu`` and the commands behind it.

A training machine may have little installed. The path from a pack to checkpoints needs torch,
numpy and safetensors only; packing reads sources and needs the whole environment.
"""
