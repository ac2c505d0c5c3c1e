"""Multi-modal remote-sensing foundation models with mixtures of experts."""

__version__ = '0.1.0'
