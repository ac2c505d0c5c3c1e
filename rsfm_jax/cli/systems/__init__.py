"""What differs between the systems when a config becomes a run.

One module per system, all with the same functions: `model`, `objective`,
`data`, `batches`, `images_per_step`, `abstract_batch` and `flops`.
`cli.compose` picks one by `config.system`; what all systems share stays there.
"""
