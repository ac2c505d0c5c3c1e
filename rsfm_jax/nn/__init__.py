"""Layers. Importing this package puts Flax NNX into its functional mode."""

from flax import nnx

nnx.set_graph_mode(False)
nnx.set_graph_updates(False)
