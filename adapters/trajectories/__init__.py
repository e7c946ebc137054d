"""Trajectories of molecular dynamics, DCD and XTC, in and out."""
