"""Differentially private training: mechanism, sampling, noise, accounting, ledgers, checks and report."""
