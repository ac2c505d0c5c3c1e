"""Verbs. Importing this package, before jax, quiets XLA's own log.

What XLA prints at its error level while compiling ("very slow compile") is
no error of a user's; real ones are raised. `TF_CPP_MIN_LOG_LEVEL` overrides.
"""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
