"""Measures the network: the published ones reproduced, its tests against mutants of it, its speed beside others'."""
