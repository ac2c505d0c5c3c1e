"""Every key of a sweep, with the defaults that others start from.

Take a copy with `sweep_base.get_config()`, add checkpoints and data sets,
return it. `cli/sweep_grid` explains the keys of a checkpoint, a variant and a
data set; each of them is a section with a name of its own, as tables show it.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  c = config_dict.ConfigDict()
  c.name = 'sweep'
  c.seed = 0  # Of random initialisation and of random ways to prune.

  c.checkpoints = config_dict.ConfigDict()
  # Ways to prune, beside the whole model.
  c.variants = config_dict.ConfigDict()
  # 'raw statistics', 'raw statistics gradients' and 'random init'.
  c.baselines = ('raw statistics', 'random init')
  c.datasets = config_dict.ConfigDict()
  c.protocols = ('linear', 'olmoearth_knn20')
  c.label_fractions = (0.01, 0.05, 0.1, 0.2, 1.0)  # Of the training split.
  c.seeds = (0, 1, 2)
  c.resamples = 1000  # Of the bootstrap over test samples.

  c.features = config_dict.ConfigDict()
  c.features.stages = ()  # Empty: all, as the verb evaluate has them.
  c.features.pools = ('mean', 'std')
  c.features.views = 'identity'
  c.features.prompts = 'keep'
  c.features.batch_size = 64
  c.features.cache = ''  # Folder of features; '' is inside the sweep's.
  return c


def section(**values) -> config_dict.ConfigDict:
  """A named checkpoint, variant or data set; later overrides may add keys."""
  return config_dict.ConfigDict(values)
