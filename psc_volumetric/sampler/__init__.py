"""Posterior sampling in integers: noise, schedule, the shared loop. Part of the format."""
