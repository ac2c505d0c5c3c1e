"""The parser, on small programs written by hand."""

import pytest

from rsfm_jax.launch import hlo

PROGRAM = """HloModule jit_f, is_scheduled=true

FileNames
1 "f.py"

%inner (p0: f32[8,128]) -> f32[8,128] {
  %p0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %neg = f32[8,128]{1,0:T(8,128)} negate(%p0), metadata={op_name="a(b)"}
}

ENTRY %main (x: f32[8,128]) -> (f32[8,128], s32[]) {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %fusion.1 = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%inner, \
backend_config={"window_config":{"estimated_cycles":"123"}}
  %odd = f32[8,128]{1,0:T(8,128)} copy(%fusion.1), \
backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %out = (f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%odd, %one)
}
"""


def test_computations_instructions_and_root():
  module = hlo.parse(PROGRAM)
  assert set(module.computations) == {'inner', 'main'}
  assert module.entry.name == 'main'
  assert [i.opcode for i in module.entry.instructions] == [
    'parameter',
    'constant',
    'fusion',
    'copy',
    'tuple',
  ]
  assert module.entry.root.operands == ('odd', 'one')
  assert len(module.entry.root.shapes) == 2
  fusion = module.entry.by_name['fusion.1']
  assert [c.name for c in module.called(fusion)] == ['inner']
  assert module.entry.users['x'] == [fusion]


def test_cycles_are_read_and_nonsense_is_none():
  entry = hlo.parse(PROGRAM).entry
  assert entry.by_name['fusion.1'].cycles == 123
  assert entry.by_name['odd'].cycles is None
  assert entry.by_name['x'].cycles is None


@pytest.mark.parametrize(
  ('text', 'dims', 'nbytes', 'tiled', 'space'),
  [
    ('f32[2,3]', (2, 3), 24, 24, 0),
    ('bf16[4,100,32]{2,1,0:T(8,128)(2,1)}', (4, 100, 32), 25600, 106496, 0),
    ('f32[16,3]{0,1:T(4,128)S(1)}', (16, 3), 192, 2048, 1),
    ('pred[5]{0:T(512)}', (5,), 5, 512, 0),
    ('s32[]{:T(128)}', (), 4, 4, 0),
    ('u32[]{:S(2)}', (), 4, 4, 2),
    ('s4[8]{0}', (8,), 4, 4, 0),
  ],
)
def test_sizes_logical_and_tiled(text, dims, nbytes, tiled, space):
  (shape,) = hlo.shapes(text)
  assert shape[1:] == (dims, nbytes, tiled, space)


def test_tuples_are_flattened():
  found = hlo.shapes('((f32[4]{0}, bf16[2]{0}), /*index=1*/s32[])')
  assert [s.dtype for s in found] == ['f32', 'bf16', 's32']


def test_a_text_without_entry_is_no_program():
  with pytest.raises(ValueError, match='ENTRY'):
    hlo.parse('HloModule empty')


LOOP = """HloModule l

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {{
  ROOT %s = (s32[], f32[8]{{0}}) parameter(0)
}}

{condition}

ENTRY %main (x: f32[8]) -> (s32[], f32[8]) {{
  %x = f32[8]{{0}} parameter(0)
  %start = s32[] constant({start})
  %copied = s32[] copy(%start)
  %limit = s32[] constant(12)
  %init = (s32[], f32[8]{{0}}, s32[]) tuple(%copied, %x, %limit)
  ROOT %loop = (s32[], f32[8]{{0}}) while(%init), condition=%cond, \
body=%body{known}
}}
"""
BY_CONSTANT = """%cond (s: (s32[], f32[8])) -> pred[] {
  %s = (s32[], f32[8]{0}) parameter(0)
  %n = s32[] constant(12)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}"""
BY_CARRIED = """%cond (s: (s32[], f32[8], s32[])) -> pred[] {
  %s = (s32[], f32[8]{0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] get-tuple-element(%s), index=2
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}"""
FUSED = """%test (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %lt = pred[] compare(%a, %b), direction=LT
}

%cond (s: (s32[], f32[8])) -> pred[] {
  %s = (s32[], f32[8]{0}) parameter(0)
  %n = s32[] constant(12)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %f = pred[] fusion(%i, %n), kind=kLoop, calls=%test
}"""
UNKNOWN = """%cond (s: (s32[], f32[8])) -> pred[] {
  %s = (s32[], f32[8]{0}) parameter(0)
  ROOT %p = pred[] custom-call(%s), custom_call_target="who-knows"
}"""


@pytest.mark.parametrize(
  ('condition', 'start', 'known', 'count'),
  [
    (BY_CONSTANT, 0, '', 12),
    (BY_CONSTANT, 5, '', 7),
    (BY_CARRIED, 0, '', 12),
    (FUSED, 2, '', 10),
    (UNKNOWN, 0, '', None),
    (
      UNKNOWN,
      0,
      ', backend_config={"known_trip_count":{"n":"18"}}',
      18,
    ),
  ],
)
def test_trip_counts(condition, start, known, count):
  module = hlo.parse(LOOP.format(condition=condition, start=start, known=known))
  loop = module.entry.by_name['loop']
  assert hlo.trip_count(module, module.entry, loop) == count
