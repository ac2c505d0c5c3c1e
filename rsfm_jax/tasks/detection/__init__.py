"""Boxes: geometry, coders, matching, suppression, pooling of regions."""
