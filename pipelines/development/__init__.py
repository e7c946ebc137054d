"""Measurements that only developers make. Nobody imports this room."""
