"""Every key of a fine-tuning run, with the defaults that others start from.

Take a copy with `finetune_base.get_config()`, change what differs, return it.
Durations are `*_steps | *_examples | *_epochs | *_percent`; set one of each.
Warm-up and gamma know the run's length, not the store's: give them in percent.
"""

import dataclasses

from ml_collections import config_dict

from rsfm_jax.data import labelled_cut
from rsfm_jax.tasks import mixing
from rsfm_jax.tasks import spec as task_spec


def get_config() -> config_dict.ConfigDict:
  c = config_dict.ConfigDict()
  c.seed = 0
  c.system = 'finetune'
  c.name = 'fine-tuned'  # Of the model, in the rows of results.
  # What rows call the rules of the run; see configs/finetune/presets.
  c.protocol = config_dict.ConfigDict(
    {'name': 'finetune', 'version': 1, 'rules': ()}
  )

  c.model = config_dict.ConfigDict()
  # A run's workdir or a model folder; '' starts from random weights of `size`.
  c.model.checkpoint = ''
  c.model.which = 'auto'  # Of a run; 'auto' is the teacher if it has one.
  c.model.system = 'ringmoe'  # 'skysense_v2', 'mapex'; no checkpoint.
  c.model.size = 'tiny'
  c.model.changes = config_dict.ConfigDict()  # Fields of the model's spec.
  # SkySense V2, by sensor of the data: the checkpoint's sensor whose tokenizer,
  # prompts and positions it takes, its own unless given.
  c.model.tokenizers = config_dict.ConfigDict()
  # With `data.sensors`: at which of three merges its grid halves, if otherwise
  # than in the checkpoint.
  c.model.reduces = config_dict.ConfigDict()
  # Path regexes of parameters that may start anew.
  c.model.fresh = ()
  c.model.encoder = 'trained'  # Or 'frozen': the head alone is trained.
  c.model.engine = 'dropless'  # Of the experts; 'capacity' may drop tokens.

  # `TaskSpec`; `outputs=None` takes the classes of the store.
  c.task = dataclasses.asdict(
    task_spec.TaskSpec(kind='classes', head='linear', outputs=2)
  )
  c.task.outputs = config_dict.placeholder(int)

  # `MixingSpec`, on device.
  c.mixing = dataclasses.asdict(mixing.MixingSpec())

  # `OptimSpec` without `total_steps`, which is the run's, and `layer_decay`.
  c.optim = config_dict.ConfigDict()
  c.optim.kind = 'adamw'
  c.optim.weights = 'float32'
  c.optim.learning_rate = 1e-4
  c.optim.min_learning_rate = 0.0
  c.optim.warmup_learning_rate = 0.0
  c.optim.warmup_steps = config_dict.placeholder(int)
  c.optim.warmup_percent = config_dict.placeholder(float)
  c.optim.shape = 'cosine'  # linear, poly, multistep, exponential, constant.
  c.optim.power = 1.0  # Of poly.
  c.optim.gamma = 0.1  # Of multistep and exponential.
  c.optim.milestones = ()  # Of multistep: shares of the steps.
  c.optim.gamma_percent = config_dict.placeholder(float)  # Of exponential.
  c.optim.gamma_steps = config_dict.placeholder(int)
  c.optim.b1 = 0.9
  c.optim.b2 = 0.999
  c.optim.eps = 1e-8
  c.optim.weight_decay = 0.05
  c.optim.final_weight_decay = config_dict.placeholder(float)
  c.optim.clip_norm = config_dict.placeholder(float)
  c.optim.bias_correction = True
  c.optim.cosine = 'after_warmup'
  c.optim.reference_batch = config_dict.placeholder(int)
  # First match wins; no decay of vectors, biases and positions (SkySense v1's
  # layer-decay constructor).
  c.optim.decay_rules = (
    (r'.*/(kernel|w_in|w_out|router)', True),
    (r'.*', False),
  )
  # Parameters (path regex) that stand still for the first part of the run.
  c.optim.held = ''
  c.optim.held_steps = config_dict.placeholder(int)
  c.optim.held_percent = config_dict.placeholder(float)
  # The rate of layer l of n is multiplied by layer_decay^(n - 1 - l).
  c.optim.layer_decay = 1.0

  c.data = config_dict.ConfigDict()
  c.data.root = ''  # Folder of the store.
  c.data.store = ''  # Its name, and that of the data set in rows.
  c.data.sensor = 'opt'
  # In its place series of one sensor, or several sensors (SkySense V2): names;
  # the most dates of each, 1 unless given; its pixels' width in pixels of the
  # finest, 1 unless given. Then `window.size` counts pixels of the finest.
  c.data.sensors = ()
  c.data.dates = config_dict.ConfigDict()
  c.data.factors = config_dict.ConfigDict()
  c.data.missing_sensors = 'error'  # 'mask' does without.
  # Pixels of a side of `target` in a window; None where those of the window.
  c.data.target_size = config_dict.placeholder(int)
  # Or an array of the records: mask, change, height, boxes.
  c.data.target = 'label'
  c.data.max_boxes = 0  # Of `boxes`: rows per image; more are an error.
  c.data.pair = 'none'  # 'after': two dates, for change detection.
  c.data.normalisation = 'pretrained'  # Or 'dataset', by its training pixels.
  c.data.missing_bands = 'error'
  c.data.train_split = 'train'  # Or several, the folds of a cross-validation.
  c.data.val_split = 'val'
  c.data.test_split = 'test'
  c.data.label_fraction = 1.0  # Of every class of the training split.
  c.data.batch_size = 64
  # `Window`: what a training step sees of an image.
  c.data.window = dataclasses.asdict(labelled_cut.Window(size=32))
  c.data.workers = 0  # Processes; 0 makes batches in threads.
  c.data.threads = 2

  c.evaluation = config_dict.ConfigDict()
  # To `window.size` pixels: 'resize', 'crop' from the centre or, of targets of
  # pixels, 'tiles' that cover the image.
  c.evaluation.fit = 'resize'
  # What chooses the best state on the validation split; see
  # `evaluate.outcomes`.
  c.evaluation.metric = 'accuracy'
  c.evaluation.dates = (
    config_dict.ConfigDict()
  )  # As `data.dates`, unless given.
  c.evaluation.resamples = 1000  # Of the bootstrap over test samples.

  c.train = config_dict.ConfigDict()
  c.train.total_steps = config_dict.placeholder(int)
  c.train.total_examples = config_dict.placeholder(int)
  c.train.total_epochs = config_dict.placeholder(float)
  c.train.accumulate = 1  # Microbatches per step.
  c.train.ema_decay = config_dict.placeholder(float)
  c.train.final_ema_decay = config_dict.placeholder(float)
  c.train.nonfinite_limit = 10
  c.train.evaluation_percent = 10.0
  c.train.checkpoint_percent = 10.0
  c.train.keep = 1
  c.train.log_steps = 10

  c.mesh = config_dict.ConfigDict(
    {'data': -1, 'fsdp': 1, 'expert': 1, 'tensor': 1, 'placement': 'auto'}
  )
  return c
