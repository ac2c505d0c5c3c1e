"""What is exchanged: kinds, groups, bytes, and asynchronous fusions."""

import pytest

from rsfm_jax.launch import collectives
from rsfm_jax.launch import hlo

G4 = 'replica_groups={{0,1,2,3},{4,5,6,7}}'


def program(line, *, before='', inner=''):
  """One instruction of an entry whose argument is f32[1024], 4 KiB."""
  return hlo.parse(
    f"""HloModule m

{inner}

ENTRY %main (x: f32[1024]) -> f32[1024] {{
  %x = f32[1024]{{0}} parameter(0)
  {before}
  ROOT %c = {line}
}}
"""
  )


def found(line, **options):
  module = program(line, **options)
  return collectives.started(module, module.entry, module.entry.root)


@pytest.mark.parametrize(
  ('groups', 'size'),
  [
    (G4, 4),
    ('replica_groups=[16,8]<=[8,16]T(1,0)', 8),
    ("replica_groups=mesh['a'=4,'b'=2] {'a'}", 4),
    ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", 8),
    ("replica_groups=mesh['a'=16,'b'=2] {'a':(2)4}", 4),
    (
      "replica_groups=mesh['a'=1,'b'=2], device_ids=([2,2]T(1,0)) {'a','b'}",
      2,
    ),
  ],
)
def test_groups_in_every_form_the_compiler_writes(groups, size):
  one = found(f'f32[1024]{{0}} all-reduce(%x), {groups}, to_apply=%add')
  assert one.group == size


def test_groups_in_an_unknown_form_are_an_error():
  with pytest.raises(ValueError, match='replica groups of c'):
    found('f32[1024]{0} all-reduce(%x), to_apply=%add')


@pytest.mark.parametrize(
  ('line', 'kind', 'nbytes', 'wire'),
  [
    ('f32[4096]{0} all-gather(%x), ' + G4, 'all-gather', 16384, 12288),
    ('f32[1024]{0} all-reduce(%x), ' + G4, 'all-reduce', 4096, 6144),
    ('f32[256]{0} reduce-scatter(%x), ' + G4, 'reduce-scatter', 4096, 3072),
    ('f32[1024]{0} all-to-all(%x), ' + G4, 'all-to-all', 4096, 3072),
    (
      'f32[1024]{0} collective-permute(%x), source_target_pairs={{0,1}}',
      'collective-permute',
      4096,
      8192,  # One way: half of what both ways carry.
    ),
    (
      '(f32[1024]{0}, f32[4096]{0}) all-gather-start(%x), ' + G4,
      'all-gather',
      16384,
      12288,
    ),
  ],
)
def test_bytes_of_each_kind(line, kind, nbytes, wire):
  one = found(line)
  assert (one.kind, one.nbytes, one.wire_bytes) == (kind, nbytes, wire)


def test_a_group_of_one_sends_nothing():
  one = found('f32[1024]{0} all-reduce(%x), replica_groups={{0},{1}}')
  assert one.wire_bytes == 0


@pytest.mark.parametrize(
  ('config', 'axes'),
  [
    ('"emitter":"2DAllGatherOnMajorDim"', 2),
    ('"debug":"Strategy{num_dims:3 active_dims:111}"', 3),
    ('"emitter":"1DAllGatherNonMajorDim"', 1),
    ('', 1),
  ],
)
def test_the_compiler_tells_how_many_torus_axes_it_uses(config, axes):
  line = f'f32[4096]{{0}} all-gather(%x), {G4}, backend_config={{{config}}}'
  assert found(line).axes == axes


FUSED = """%start (p: f32[1024]) -> (f32[1024], f32[4096]) {
  %p = f32[1024]{0} parameter(0)
  %g = f32[4096]{0} all-gather(%p), channel_id=7, GROUPS, \
backend_config={"async_collective_fusion_config":{"flag_start":"FLAG"}}
  ROOT %t = (f32[1024]{0}, f32[4096]{0}) custom-call(%g), \
custom_call_target="TARGET"
}"""


def fused(flag, target):
  inner = FUSED.replace('GROUPS', G4)
  return inner.replace('FLAG', flag).replace('TARGET', target)


FUSION = '(f32[1024]{0}, f32[4096]{0}) fusion(%x), kind=kCustom, calls=%start'


def test_the_start_of_an_asynchronous_fusion_counts_and_its_steps_do_not():
  start = found(FUSION, inner=fused('-1', 'AsyncCollectiveStart'))
  assert (start.kind, start.channel, start.nbytes) == ('all-gather', '7', 16384)
  assert found(FUSION, inner=fused('2', 'AsyncCollectiveDone')) is None


def test_the_end_of_an_asynchronous_fusion_names_its_channel():
  module = program(FUSION, inner=fused('2', 'AsyncCollectiveDone'))
  assert collectives.finished(module, module.entry.root) == '7'
  module = program(FUSION, inner=fused('-1', 'AsyncCollectiveStart'))
  assert collectives.finished(module, module.entry.root) is None


def test_a_fused_all_reduce_and_slice_is_a_reduce_scatter():
  inner = f"""%all-reduce-scatter.3 (p: f32[1024]) -> f32[256] {{
  %p = f32[1024]{{0}} parameter(0)
  %r = f32[1024]{{0}} all-reduce(%p), {G4}, to_apply=%add
  %i = u32[] partition-id()
  ROOT %s = f32[256]{{0}} dynamic-slice(%r, %i), dynamic_slice_sizes={{256}}
}}"""
  one = found(
    'f32[256]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3',
    inner=inner,
  )
  assert (one.kind, one.nbytes) == ('reduce-scatter', 4096)


def test_other_instructions_exchange_nothing():
  assert found('f32[1024]{0} negate(%x)') is None
