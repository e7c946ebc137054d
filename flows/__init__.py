"""Prefect flows on Dask: scheduling, retries and names around functions of `pipelines`.

Nothing here computes. Everything a flow does, one command of `psc-archive` does without Prefect
or Dask. Importing this package imports neither.
"""
