"""Supernets: networks with shared weights. Needs torch."""
