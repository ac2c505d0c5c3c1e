"""Bytes by kind, and what a refusal of the compiler says."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rsfm_jax.launch import hlo
from rsfm_jax.launch import memory
from rsfm_jax.sharding import mesh as meshes

SHORT = (
  'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
  'for HLO temporaries (16.50G) exceeds available HBM (15.75G).'
)
LONG = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. \
Used 63.80G of 30.75G hbm. Exceeded hbm capacity by 33.05G.

Total hbm usage >= 65.05G:
    reserved          1.25G

  Largest program allocations in hbm:

  1. Size: 2.00G
     Operator: op_name="jit(step)/dot_general" source_line=9
     Shape: f32[32,4096,4096]{1,2,0:T(8,128)}
     Unpadded size: 2.00G
     XLA label: fusion.1 = fusion(a, b), kind=kOutput
     Allocation type: HLO temp
     ==========================

  2. Size: 512.00M
     Shape: bf16[128,6]{1,0}
     XLA label: reduce-window.4 = reduce-window(a)
     Allocation type: HLO temp
     ==========================
"""


def array(shape, dtype, *spec):
  mesh = meshes.make_mesh(fsdp=8, data=1)
  sharding = NamedSharding(mesh, P(*spec))
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def state():
  return {
    'step': array((), jnp.int32),
    'params': {'w': array((80, 10), jnp.float32, 'fsdp')},
    'opt': {
      'm': {'w': array((80, 10), jnp.bfloat16, 'fsdp')},
      'v': {'w': array((80, 10), jnp.float32)},
    },
    'ema': {'w': array((80, 10), jnp.float32, 'fsdp')},
  }


def batch():
  return {'opt': {'image': array((16, 4), jnp.float32, 'fsdp')}}


def test_bytes_of_a_device_by_kind():
  assert memory.of_arguments(state(), batch()) == {
    'params': 400,
    'optimizer': 200 + 3200,  # The second is whole on every device.
    'other_state': 4 + 400,
    'batch': 32,
  }


def test_a_random_key_is_counted_too():
  key = jax.eval_shape(lambda: jax.random.key(0))
  found = memory.of_arguments({'extra': {'key': key}}, {})
  assert found['other_state'] == key.dtype.itemsize


def test_largest_arguments_by_name():
  first, second, third = memory.largest_arguments(state(), batch())
  assert first == ('opt/v/w', 3200, 'float32[80, 10]')
  assert (second.nbytes, third.nbytes) == (400, 400)


def test_largest_temporaries_are_those_in_hbm_that_are_made():
  module = hlo.parse("""HloModule m

%f (p: f32[64]) -> f32[64] {
  %p = f32[64]{0} parameter(0)
  ROOT %n = f32[64]{0} negate(%p)
}

ENTRY %main (x: f32[4096]) -> f32[64] {
  %x = f32[4096]{0} parameter(0)
  %view = f32[64,64]{1,0} bitcast(%x)
  %onchip = f32[4096]{0:S(1)} copy(%x)
  %a = f32[64]{0} fusion(%x), kind=kLoop, calls=%f, \
metadata={op_name="jit(step)/a"}
  %b = f32[128]{0} broadcast(%a), dimensions={}
  ROOT %c = f32[32]{0} slice(%b), slice={[0:32]}
}
""")
  assert memory.largest_temporaries(module) == [
    ('b', 512, 'f32[128]'),
    ('jit(step)/a', 256, 'f32[64]'),
    ('c', 128, 'f32[32]'),
  ]


def test_a_short_refusal_gives_the_total():
  assert memory.parse_refusal(SHORT) == (round(16.5 * 2**30), [])


def test_a_long_refusal_gives_total_and_arrays():
  needed, arrays = memory.parse_refusal(LONG)
  assert needed == round(63.8 * 2**30)
  assert arrays == [
    ('jit(step)/dot_general', 2**31, 'f32[32,4096,4096]'),
    ('reduce-window.4', 2**29, 'bf16[128,6]'),
  ]


PLAN = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 add.2 @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 4096, parameter 5, shape |f32[1024]| at ShapeIndex {}:
 value: <9 param.17 @0> (size=4096,offset=0): f32[1024]{0:T(1024)}
allocation 2: size 1024, output shape is |(f32[256])|, maybe-live-out:
allocation 3: size 7000, preallocated-temp:
 value: <41 small @0> (size=512,offset=0): pred[]{:T(512)}
 value: <45 view @0> (size=3000,offset=512): bf16[1500]{0:T(8,128)(2,1)}
 value: <46 fusion.1{0} @0> (size=4000,offset=512): f32[1000]{0:T(1024)}
 value: <47 while.5{1} (phi) @0> (size=2000,offset=5000): s32[500]{0}
allocation 4: size 9999, color 1, preallocated-temp:
 value: <50 fast @1> (size=9999,offset=0): u8[9999]{0:S(1)}
"""


def test_a_plan_of_memory_gives_places_and_their_makers():
  program = '  %fusion.1 = (f32[1000]) fusion(), metadata={op_name="step/dot"}'
  found = memory.parse_buffers(PLAN, program)
  assert found[:3] == (4096, 512 + 7000, 1024)
  assert found.largest == [
    ('step/dot (fusion.1)', 4000, 'f32[1000]'),
    ('while.5', 2000, 's32[500]'),
    ('small', 512, 'pred[]'),
  ]
