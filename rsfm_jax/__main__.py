"""`python -m rsfm_jax` is `rsfm`."""

import sys

from rsfm_jax.cli import main

if __name__ == '__main__':
  sys.exit(main.main())
