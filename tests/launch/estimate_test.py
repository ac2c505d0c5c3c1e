"""The replay, on schedules whose length can be added up by hand.

The chip runs at 1 GHz, moves 1 byte a nanosecond to memory and 1 byte a
nanosecond over a link, so that all figures below are nanoseconds.
"""

import dataclasses

import pytest

from rsfm_jax.launch import chips
from rsfm_jax.launch import estimate

CHIP = dataclasses.replace(
  chips.V5P,
  clock_hz=1e9,
  hbm_bandwidth=1e9 / 0.85,
  link_bandwidth=1e9,
  peak_flops=1e12,
)
PAIR = 'replica_groups={{0,1}}'  # Halves what an all-gather sends.


def program(*lines, inner=''):
  body = '\n'.join(f'  {line}' for line in lines)
  return f"""HloModule m

{inner}

ENTRY %main (x: f32[1000]) -> f32[1000] {{
  %x = f32[1000]{{0}} parameter(0)
  %w = f32[1000,1]{{1,0}} parameter(1)
{body}
  ROOT %out = f32[1000]{{0}} bitcast(%x)
}}
"""


def product(name, cycles):
  return (
    f'%{name} = f32[1000]{{0}} convolution(%w, %w), dim_labels=bf_oi->bf, '
    f'backend_config={{"estimated_cycles":"{cycles}"}}'
  ).replace('f32[1000]', 'f32[1000,1000]')


def add(name, cycles, dtype='f32'):
  """Reads and writes 8,000 bytes."""
  return (
    f'%{name} = {dtype}[1000]{{0}} negate(%x), '
    f'backend_config={{"estimated_cycles":"{cycles}"}}'
  )


def ns(text, chip=CHIP):
  found = estimate.estimate(text, chip)
  return tuple(
    round(1e9 * seconds)
    for seconds in (
      found.seconds,
      found.slowest_seconds,
      found.fastest_seconds,
    )
  )


def test_synchronous_work_adds_up():
  assert ns(program(product('a', 700), product('b', 300))) == (1000,) * 3


def test_hybrid_takes_bytes_where_the_compiler_is_slower():
  # 20,000 cycles for 8,000 bytes become 8,000; 5,000 stay.
  text = program(add('a', 20000), add('b', 5000), product('c', 20000))
  assert ns(text) == (33000, 45000, 33000)
  cycles = estimate.estimate(text, CHIP).cycles_by_kind
  assert cycles == {'matmul': 20000, 'elementwise': 13000}


def test_without_an_estimate_bytes_are_the_price():
  line = '%g = f32[1000]{0} sort(%x), dimensions={0}'
  assert ns(program(line)) == (8000,) * 3


def test_a_synchronous_collective_is_exposed():
  text = program(
    product('a', 1000),
    f'%g = f32[2000]{{0}} all-gather(%x), {PAIR}',
  )
  # 8,000 bytes of which half come from the other device.
  assert ns(text) == (5000, 5000, 1000)
  found = estimate.estimate(text, CHIP)
  assert found.exposed_communication == pytest.approx(0.8)
  assert found.collectives['all-gather']['count'] == 1
  assert found.collectives['all-gather']['bytes'] == 8000


@pytest.mark.parametrize(
  ('work', 'total'), [(1000, 4000), (4000, 4000), (9000, 9000)]
)
def test_an_asynchronous_collective_hides_behind_work(work, total):
  text = program(
    f'%s = (f32[1000]{{0}}, f32[2000]{{0}}) all-gather-start(%x), {PAIR}',
    product('a', work),
    '%d = f32[2000]{0} all-gather-done(%s)',
  )
  assert ns(text) == (total, total, work)


def test_links_carry_one_collective_after_another():
  text = program(
    f'%s = (f32[1000]{{0}}, f32[2000]{{0}}) all-gather-start(%x), {PAIR}',
    f'%t = (f32[1000]{{0}}, f32[2000]{{0}}) all-gather-start(%x), {PAIR}',
    product('a', 5000),
    '%d = f32[2000]{0} all-gather-done(%s)',
    '%e = f32[2000]{0} all-gather-done(%t)',
  )
  assert ns(text) == (8000, 8000, 5000)


def test_a_generic_asynchronous_pair_and_its_update():
  inner = f"""%wrapped (p: f32[1000]) -> f32[1000] {{
  %p = f32[1000]{{0}} parameter(0)
  ROOT %a = f32[1000]{{0}} all-to-all(%p), {PAIR}
}}"""
  text = program(
    '%s = ((f32[1000]{0}), f32[1000]{0}, u32[]) async-start(%x), '
    'calls=%wrapped',
    product('a', 500),
    '%u = ((f32[1000]{0}), f32[1000]{0}, u32[]) async-update(%s), '
    'calls=%wrapped',
    '%d = f32[1000]{0} async-done(%u), calls=%wrapped',
    inner=inner,
  )
  assert ns(text) == (2000, 2000, 500)


FUSED = f"""%start (p: f32[1000]) -> f32[1000] {{
  %p = f32[1000]{{0}} parameter(0)
  %g = f32[2000]{{0}} all-gather(%p), channel_id=3, {PAIR}, \
backend_config={{"flag_start":"-1"}}
  ROOT %c = f32[2000]{{0}} custom-call(%g), \
custom_call_target="AsyncCollectiveStart"
}}

%end (p: f32[1000]) -> f32[1000] {{
  %p = f32[1000]{{0}} parameter(0)
  %h = f32[2000]{{0}} all-gather(%p), channel_id=3, {PAIR}, \
backend_config={{"flag_start":"2"}}
  ROOT %c = f32[2000]{{0}} custom-call(%h), \
custom_call_target="AsyncCollectiveDone"
}}"""


def test_fusions_that_start_and_end_a_collective():
  text = program(
    '%s = f32[2000]{0} fusion(%x), kind=kCustom, calls=%start',
    product('a', 1000),
    '%e = f32[2000]{0} fusion(%s), kind=kCustom, calls=%end',
    inner=FUSED,
  )
  assert ns(text) == (4000, 4000, 1000)
  assert estimate.estimate(text, CHIP).collectives['all-gather']['count'] == 1


def test_prefetches_into_on_chip_memory_hide_too():
  text = program(
    '%s = (f32[1000]{0:S(1)}, f32[1000]{0}, u32[]{:S(2)}) copy-start(%x)',
    product('a', 1000),
    '%d = f32[1000]{0:S(1)} copy-done(%s)',
  )
  assert ns(text) == (4000, 4000, 1000)
  cycles = estimate.estimate(text, CHIP).cycles_by_kind
  assert cycles == {'transfers': 3000, 'matmul': 1000}


LOOP = """%body (s: (s32[], f32[1000])) -> (s32[], f32[1000]) {
  %s = (s32[], f32[1000]{0}) parameter(0)
  %x = f32[1000]{0} get-tuple-element(%s), index=1
  %w = f32[1000,1]{1,0} broadcast(), backend_config={"estimated_cycles":"0"}
  WORK
  %r = f32[1000]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  ROOT %t = (s32[], f32[1000]{0}) tuple(%s, %x)
}

%cond (s: (s32[], f32[1000])) -> pred[] {
  %s = (s32[], f32[1000]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  LIMIT
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}"""
WHILE = (
  '%zero = s32[] constant(0)',
  '%init = (s32[], f32[1000]{0}) tuple(%zero, %x)',
  '%loop = (s32[], f32[1000]{0}) while(%init), condition=%cond, body=%body',
)


def loop(limit):
  return LOOP.replace('WORK', product('a', 500)).replace('LIMIT', limit)


def test_loops_multiply():
  text = program(*WHILE, inner=loop('%n = s32[] constant(18)'))
  # 500 of work and an all-reduce of 4,000 bytes: once there, once back.
  assert ns(text) == (18 * 4500, 18 * 4500, 18 * 500)
  found = estimate.estimate(text, CHIP)
  assert found.collectives['all-reduce']['count'] == 18
  assert found.collectives['all-reduce']['bytes'] == 18 * 4000
  assert found.matmul_flops == 18 * 2 * 1000 * 1000
  assert not found.unknown


def test_a_loop_of_unknown_length_counts_once_and_says_so():
  text = program(*WHILE, inner=loop('%n = s32[] custom-call()'))
  found = estimate.estimate(text, CHIP)
  assert round(1e9 * found.seconds) == 4500
  assert found.unknown == {'loops counted once': 1}


def test_of_two_branches_the_longer_counts():
  inner = '\n\n'.join(
    f'%{name} (p: f32[1000]) -> f32[1000] {{\n'
    f'  %w = f32[1000,1]{{1,0}} parameter(0)\n  ROOT {product("r", cycles)}\n}}'
    for name, cycles in (('short', 10), ('long', 2000))
  )
  text = program(
    '%c = f32[1000]{0} conditional(%x, %x, %x), '
    'branch_computations={%short, %long}',
    inner=inner,
  )
  assert ns(text) == (2000,) * 3


def kernel(cost, name='k', more=''):
  return (
    f'%{name} = f32[1000]{{0}} custom-call(%x), '
    'custom_call_target="tpu_custom_call", '
    'metadata={op_name="jit(f)/attend/pallas_call"}, '
    f'backend_config={{{more}{cost}}}'
  )


def cost(flops, nbytes, transcendentals=0):
  return (
    f'"cost_estimate":{{"flops":"{flops}",'
    f'"transcendentals":"{transcendentals}","bytes_accessed":"{nbytes}"}}'
  )


@pytest.mark.parametrize(
  ('declared', 'total'),
  [
    (cost(9_000_000, 85), 9000),
    (cost(1, 1_000_000), 1_000_000),
    (cost(1, 1, 7 * 1024), 7),  # A vector of 8 x 128 a cycle.
  ],
)
def test_kernels_follow_a_roofline_and_are_counted(declared, total):
  text = program(kernel(declared), kernel(declared, 'again'))
  assert ns(text) == (2 * total,) * 3
  assert estimate.estimate(text, CHIP).unknown == {
    'kernels priced by the roofline of their declared cost': 2
  }


def test_a_kernel_without_a_cost_is_named():
  found = estimate.estimate(program(kernel('')), CHIP)
  assert round(1e9 * found.seconds) == 8000
  assert found.unknown == {'attend without cycles or cost, priced by bytes': 1}


def test_a_call_that_the_compiler_prices_has_its_cycles():
  line = kernel(cost(1, 1), more='"estimated_cycles":"321",')
  assert ns(program(line)) == (321,) * 3
  assert not estimate.estimate(program(line), CHIP).unknown


@pytest.mark.parametrize('opcode', ['fusion', 'async-start'])
def test_a_kernel_is_not_free_inside_something_else(opcode):
  inner = (
    '%f (x: f32[1000]) -> f32[1000] {\n  %x = f32[1000]{0} parameter(0)\n'
    f'  ROOT {kernel(cost(9_000_000, 85))}\n}}'
  )
  line = f'%z = f32[1000]{{0}} {opcode}(%x), calls=%f'
  assert ns(program(line, inner=inner)) == (9000,) * 3


def test_a_device_that_is_half_a_chip_has_half_of_it():
  half = dataclasses.replace(CHIP, devices_per_chip=2)
  gather = program(f'%g = f32[2000]{{0}} all-gather(%x), {PAIR}')
  assert ns(gather, half)[0] == 2 * ns(gather)[0]
  assert ns(program(product('a', 700)), half) == (700,) * 3


def test_two_torus_axes_carry_twice_as_much():
  config = 'backend_config={"emitter":"2DAllGatherOnMajorDim"}'
  text = program(f'%g = f32[2000]{{0}} all-gather(%x), {PAIR}, {config}')
  assert ns(text)[0] == 2000


def test_a_gpu_has_no_estimate():
  with pytest.raises(ValueError, match='h200 has no estimate'):
    estimate.estimate(program(), chips.H200)


def test_exchanges_can_be_counted_for_any_platform():
  text = program(*WHILE, inner=loop('%n = s32[] constant(3)'))
  found = estimate.exchanged(text)
  assert found['all-reduce']['count'] == 3
