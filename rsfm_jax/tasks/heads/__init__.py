"""Heads: from named maps of features to scores, one file each."""
