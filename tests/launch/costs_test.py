"""What an instruction computes and moves."""

import pytest

from rsfm_jax.launch import costs
from rsfm_jax.launch import hlo


def entry(lines, *, inner=''):
  body = '\n'.join(f'  {line}' for line in lines)
  module = hlo.parse(
    f'HloModule m\n\n{inner}\n\nENTRY %main (x: f32[]) -> f32[] {{\n{body}\n}}'
  )
  return module, module.entry, module.entry.root


@pytest.mark.parametrize(
  ('opcode', 'kind'),
  [
    ('convolution', 'matmul'),
    ('dot', 'matmul'),
    ('gather', 'gather'),
    ('scatter', 'scatter'),
    ('sort', 'sort'),
    ('reduce', 'reduction'),
    ('transpose', 'copy'),
    ('copy', 'copy'),
    ('tanh', 'elementwise'),
  ],
)
def test_kinds_alone_and_inside_a_fusion(opcode, kind):
  line = f'ROOT %y = f32[8]{{0}} {opcode}(%x)'
  module, _, root = entry(['%x = f32[8]{0} parameter(0)', line])
  assert costs.kind_of(module, root) == kind
  inner = (
    f'%f (p: f32[8]) -> f32[8] {{\n  %p = f32[8]{{0}} parameter(0)\n'
    f'  ROOT %y = f32[8]{{0}} {opcode}(%p)\n}}'
  )
  module, _, root = entry(
    [
      '%x = f32[8]{0} parameter(0)',
      'ROOT %z = f32[8]{0} fusion(%x), kind=kLoop, calls=%f',
    ],
    inner=inner,
  )
  assert costs.kind_of(module, root) == kind


def test_allocation_and_views_are_free():
  for line in (
    'ROOT %y = f32[8]{0} bitcast(%x)',
    'ROOT %y = f32[8]{0} custom-call(), custom_call_target="AllocateBuffer"',
  ):
    _, _, root = entry(['%x = f32[8]{0} parameter(0)', line])
    assert costs.is_free(root)


def test_an_elementwise_operation_reads_and_writes_everything():
  module, computation, root = entry(
    [
      '%x = f32[256]{0} parameter(0)',
      '%y = f32[256]{0} parameter(1)',
      'ROOT %z = f32[256]{0} add(%x, %y)',
    ]
  )
  assert costs.moved(module, computation, root) == 3 * 1024


def test_padding_of_a_narrow_array_is_moved_too():
  module, computation, root = entry(
    [
      '%x = f32[8,32]{1,0:T(8,128)} parameter(0)',
      'ROOT %z = f32[8,32]{1,0:T(8,128)} negate(%x)',
    ]
  )
  assert costs.moved(module, computation, root) == 2 * 8 * 128 * 4


SLICED = """%f (stack: f32[18,256], i: s32[]) -> f32[1,256] {
  %stack = f32[18,256]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %view = f32[18,256]{1,0} bitcast(%stack)
  ROOT %s = f32[1,256]{1,0} dynamic-slice(%view, %i)
}"""
UPDATED = """%f (stack: f32[18,256], i: s32[]) -> f32[18,256] {
  %stack = f32[18,256]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %row = f32[1,256]{1,0} broadcast(%i), dimensions={}
  ROOT %u = f32[18,256]{1,0} dynamic-update-slice(%stack, %row, %i)
}"""


def test_one_layer_of_a_stack_is_what_is_read():
  module, computation, root = entry(
    [
      '%x = f32[18,256]{1,0} parameter(0)',
      '%i = s32[] parameter(1)',
      'ROOT %y = f32[1,256]{1,0} fusion(%x, %i), kind=kLoop, calls=%f',
    ],
    inner=SLICED,
  )
  assert costs.moved(module, computation, root) == 2 * 1024 + 4


def test_an_update_in_place_writes_the_update():
  module, computation, root = entry(
    [
      '%x = f32[18,256]{1,0} parameter(0)',
      '%i = s32[] parameter(1)',
      'ROOT %y = f32[18,256]{1,0} fusion(%x, %i), kind=kLoop, calls=%f',
    ],
    inner=UPDATED,
  )
  assert costs.moved(module, computation, root) == 1024 + 4


def product(left, right, out, attributes, opcode='convolution'):
  _, computation, root = entry(
    [
      f'%a = bf16[{left}] parameter(0)',
      f'%b = bf16[{right}] parameter(1)',
      f'ROOT %c = bf16[{out}] {opcode}(%a, %b), {attributes}',
    ]
  )
  return costs.matmul_flops(computation, root)


@pytest.mark.parametrize(
  ('left', 'right', 'out', 'attributes', 'flops'),
  [
    # [64, 32] x [32, 16].
    ('64,32', '32,16', '64,16', 'dim_labels=bf_io->bf', 2 * 64 * 32 * 16),
    # 8 products of [64, 32] x [32, 16]: the batch as a dilated dimension.
    (
      '8,64,32',
      '8,32,16',
      '8,64,16',
      'window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf',
      8 * 2 * 64 * 32 * 16,
    ),
    # Contraction over a feature of 4 and a window of 64: [16, 256] x [256, 8].
    (
      '4,64,16',
      '4,64,8',
      '16,8,1',
      'window={size=64}, dim_labels=f0b_i0o->bf0',
      2 * 16 * 256 * 8,
    ),
    # A 3 x 3 convolution of 8 x 8 pixels with a border of zeros: the taps
    # that meet pixels are 8 + 7 + 7 in each direction.
    (
      '1,8,8,5',
      '3,3,5,6',
      '1,8,8,6',
      'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f',
      2 * 22 * 22 * 5 * 6,
    ),
  ],
)
def test_flops_of_products_as_the_tpu_compiler_writes_them(
  left, right, out, attributes, flops
):
  assert product(left, right, out, attributes) == flops


def test_flops_of_a_dot():
  attributes = (
    'lhs_batch_dims={0}, lhs_contracting_dims={2}, '
    'rhs_batch_dims={0}, rhs_contracting_dims={1}'
  )
  flops = product('8,64,32', '8,32,16', '8,64,16', attributes, opcode='dot')
  assert flops == 8 * 2 * 64 * 32 * 16


KERNEL = 'f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call"'


def cost(flops, nbytes):
  """As the TPU compiler prints it, with the kernel's code before it."""
  return (
    ', backend_config={"flag_configs":[],"custom_call_config":{"body":"TUzv",'
    f'"cost_estimate":{{"flops":"{flops}","transcendentals":"3",'
    f'"bytes_accessed":"{nbytes}","remote_bytes_transferred":"5"}},'
    '"needs_layout_passes":true}}'
  )


def test_a_kernel_tells_its_cost_or_not():
  _, _, silent = entry(['%x = f32[8]{0} parameter(0)', f'ROOT %y = {KERNEL}'])
  line = f'ROOT %y = {KERNEL}{cost(12, 34)}'
  module, _, told = entry(['%x = f32[8]{0} parameter(0)', line])
  assert costs.declared(silent) is None
  assert costs.declared(told) == (12, 3, 34, 5)
  assert costs.kernels(module, told) == [told]


def test_a_cost_of_nothing_is_none():
  line = f'ROOT %y = {KERNEL}{cost(0, 0)}'.replace('"3"', '"0"')
  line = line.replace('"5"', '"0"')
  _, _, root = entry(['%x = f32[8]{0} parameter(0)', line])
  assert costs.declared(root) is None


@pytest.mark.parametrize('opcode', ['fusion', 'async-start'])
def test_a_kernel_is_found_where_it_is_fused_or_started(opcode):
  inner = (
    '%f (x: f32[8]) -> f32[8] {\n  %x = f32[8]{0} parameter(0)\n'
    f'  ROOT %k = {KERNEL}{cost(12, 34)}\n}}'
  )
  line = f'ROOT %z = f32[8]{{0}} {opcode}(%x), calls=%f'
  module, _, root = entry(['%x = f32[8]{0} parameter(0)', line], inner=inner)
  assert costs.kind_of(module, root) == 'kernel'
  assert [costs.declared(k).flops for k in costs.kernels(module, root)] == [12]
