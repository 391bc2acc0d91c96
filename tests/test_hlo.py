"""What is read off compiled programs."""

import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from ssl_jax import dist
from ssl_jax.plan import hlo, program, traffic

GATHERED = """
%fused (p: f32[64,64]) -> f32[256,64] {
  %all-gather.1 = f32[256,64]{1,0} all-gather(%p), channel_id=1, frontend_attributes={chain_id="0"}
}
%fused.2 (p: f32[64,64]) -> f32[256,64] {
  %all-gather.2 = f32[256,64]{1,0} all-gather(%p), channel_id=1, frontend_attributes={chain_id="0"}
}
ENTRY %main (a: f32[32], b: bf16[32]) -> f32[32] {
  %all-reduce.1 = (f32[32]{0:T(128)S(1)}, bf16[32]{0}) all-reduce(%a, %b), channel_id=1, to_apply=%add
  %all-reduce.2 = f32[] all-reduce(%c), channel_id=1, to_apply=%add
  %all-gather-start.3 = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%d), channel_id=3
  %all-gather-done.3 = f32[16,8]{1,0} all-gather-done(%all-gather-start.3)
  %get = f32[32]{0} get-tuple-element(%all-reduce.1), index=0
}
"""


@pytest.mark.fast
def test_arrays_are_stored_in_whole_tiles():
    found = program.arrays(
        "(f32[64,32,32,64]{3,0,2,1:T(8,128)}, bf16[3,3,512]{2,1,0:T(8,128)(2,1)S(1)}, pred[], u8[5])"
    )
    assert [array.size for array in found] == [64**2 * 32**2 * 4, 3 * 3 * 512 * 2, 1, 5]
    assert [array.stored for array in found] == [64 * 128 * 32**2 * 4, 3 * 8 * 512 * 2, 1, 5]
    assert [array.main for array in found] == [True, False, True, True]


@pytest.mark.fast
def test_collectives_are_counted_once():
    found = hlo.collectives(GATHERED)
    assert found == {"all-gather": (2, 256 * 64 * 4 + 16 * 8 * 4), "all-reduce": (2, 32 * 4 + 32 * 2 + 4)}


def test_collectives_of_a_compiled_program():
    mesh = dist.make_mesh(jax.devices()[:4])

    def replica(x):
        everyone = jax.lax.all_gather(x, dist.AXIS, tiled=True)
        return dist.mean((everyone @ everyone.T).sum())

    mapped = jax.jit(jax.shard_map(replica, mesh=mesh, in_specs=P(dist.AXIS), out_specs=P()))
    compiled = mapped.lower(jnp.zeros((8, 16))).compile()
    assert hlo.collectives(compiled.as_text()) == {"all-gather": (1, 8 * 16 * 4), "all-reduce": (1, 4)}


FUSED = """
%all-reduce-scatter (input: bf16[2048,2048]) -> bf16[2048,1024] {
  %input = bf16[2048,2048]{1,0} parameter(0)
  %all-reduce.3 = bf16[2048,2048]{1,0} all-reduce(%input), channel_id=14, to_apply=%add
  ROOT %dynamic-slice.2 = bf16[2048,1024]{1,0} dynamic-slice(%all-reduce.3, %c, %m), dynamic_slice_sizes={2048,1024}
}
%turn (p: (s32[], bf16[2048,2048])) -> (s32[], bf16[2048,2048]) {
  %x = bf16[2048,2048]{1,0} parameter(0)
  %fusion = bf16[2048,1024]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter
}
%again (p: (s32[], bf16[2048,2048])) -> pred[] {
  %p = (s32[], bf16[2048,2048]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %bound = s32[]{:T(128)} constant(24)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}
ENTRY %main (a: (s32[], bf16[2048,2048])) -> (s32[], bf16[2048,2048]) {
  %a = (s32[], bf16[2048,2048]{1,0}) parameter(0)
  ROOT %while = (s32[], bf16[2048,2048]{1,0}) while(%a), condition=%again, body=%turn
}
"""


@pytest.mark.fast
def test_a_fused_reduce_scatter_in_a_loop_is_counted_by_its_shards_in_every_turn():
    assert hlo.collectives(FUSED) == {"reduce-scatter": (24, 24 * 2048 * 1024 * 2)}
    known = FUSED.replace("body=%turn", 'body=%turn, backend_config={"known_trip_count":{"n":"7"}}')
    assert hlo.collectives(known)["reduce-scatter"][0] == 7
    unknown = FUSED.replace("direction=LT", "direction=NE")
    assert hlo.collectives(unknown)["reduce-scatter"][0] == 1


SCAN = """
import sys
import jax, jax.numpy as jnp
from ssl_jax.plan import chips, hlo, traffic
device = chips.find_devices(sys.argv[1])[0]
shaped = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device))

def loss(w, x):
    turn = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
    return jax.lax.scan(turn, x, w)[0].sum()

for count in (4, 12):
    program = jax.jit(jax.grad(loss)).trace(shaped(count, 256, 256), shaped(512, 256)).lower().compile()
    text = program.as_text()
    print(hlo.loop_flops(text), program.cost_analysis()["flops"], traffic.main_memory(text))
"""


@pytest.mark.parametrize("topology", ["local", "v5e:1x1"])
def test_products_in_loops_are_counted_in_every_turn(topology):
    """A loop forwards and one backwards with the product again and those of both gradients."""
    if topology != "local":
        pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    done = subprocess.run([sys.executable, "-c", SCAN, topology], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (few, once, moved), (many, same, more) = (map(float, line.split()) for line in done.stdout.splitlines())
    product = 2 * 512 * 256 * 256
    # Backwards the forward product is made again, unless the compiler finds that nothing of it is needed.
    assert few in (3 * 3 * product, 4 * 3 * product) and many == few / 3 * 11
    assert abs(once - same) < 0.1 * product and more > 2 * moved


PRODUCTS = """
import functools, sys
import jax, jax.numpy as jnp
from ssl_jax.plan import chips, hlo, program
place = jax.sharding.SingleDeviceSharding(chips.find_devices(sys.argv[1])[0])

def count(function, *shapes):
    given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes]
    compiled = jax.jit(function).trace(*given).lower().compile()
    parsed, _ = program.parse(compiled.as_text())
    found = sum(hlo._product(x, body) for body in parsed.values() for x in body.values())
    print(found, compiled.cost_analysis()["flops"])

count(lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k), (4, 50, 16, 64), (4, 50, 16, 64))
conv = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
images, kernel = (8, 17, 17, 64), (3, 3, 64, 128)
count(lambda x, w: conv(x, w, (2, 2), "SAME"), images, kernel)
count(lambda x, w: conv(x, w, (1, 1), "SAME", rhs_dilation=(2, 2)), images, kernel)
count(lambda x, w: conv(x, w, (1, 1), [(2, 2), (1, 3)], lhs_dilation=(2, 2)), images, kernel)
count(lambda x, w: conv(x, w, (1, 1), "SAME", feature_group_count=4), images, (3, 3, 16, 128))
"""


def test_products_are_counted_as_the_tpu_compiler_does():
    """One of a batch of matrices is a convolution there, whose padding counts for nothing."""
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    done = subprocess.run([sys.executable, "-c", PRODUCTS, "v5e:1x1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert lines[0][0] == 2 * 4 * 16 * 50 * 50 * 64
    assert len(lines) == 5 and all(found == wanted for found, wanted in lines)


# Arrays of 4 kB (f32[1024]) but for the table; S(1) is the chip's own memory.
MOVED = """
%same (p0: f32[1024]) -> f32[1024] {
  %p0 = f32[1024]{0} parameter(0)
  ROOT %b0 = f32[1024]{0} bitcast(%p0)
}
%rows (p1: f32[512,1024], i: s32[]) -> f32[1024] {
  %p1 = f32[512,1024]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b1 = f32[512,1024]{1,0} bitcast(%p1)
  %d = f32[1,1024]{1,0} dynamic-slice(%b1, %i, %i), dynamic_slice_sizes={1,1024}
  ROOT %r = f32[1024]{0} bitcast(%d)
}
%put (p2: f32[512,1024], p3: f32[1024], j: s32[]) -> (f32[512,1024], f32[1024]) {
  %p2 = f32[512,1024]{1,0} parameter(0)
  %p3 = f32[1024]{0} parameter(1)
  %j = s32[] parameter(2)
  %b2 = f32[1,1024]{1,0} bitcast(%p3)
  %u = f32[512,1024]{1,0} dynamic-update-slice(%p2, %b2, %j, %j)
  %f = f32[1024]{0} fusion(%p3), kind=kLoop, calls=%same
  %n = f32[1024]{0} negate(%f)
  ROOT %t = (f32[512,1024]{1,0}, f32[1024]{0}) tuple(%u, %n)
}
%padded (p4: f32[1024], l: s32[]) -> f32[512,1024] {
  %p4 = f32[1024]{0} parameter(0)
  %l = s32[] parameter(1)
  %zero = f32[] constant(0)
  %zeros = f32[512,1024]{1,0} broadcast(%zero), dimensions={}
  %row = f32[1,1024]{1,0} bitcast(%p4)
  ROOT %u2 = f32[512,1024]{1,0} dynamic-update-slice(%zeros, %row, %l, %l)
}
%two (p5: f32[512,1024], p6: f32[1024], m: s32[], n2: s32[]) -> f32[512,1024] {
  %p5 = f32[512,1024]{1,0} parameter(0)
  %p6 = f32[1024]{0} parameter(1)
  %m = s32[] parameter(2)
  %n2 = s32[] parameter(3)
  %b3 = f32[1,1024]{1,0} bitcast(%p6)
  %u3 = f32[512,1024]{1,0} dynamic-update-slice(%p5, %b3, %m, %m)
  ROOT %u4 = f32[512,1024]{1,0} dynamic-update-slice(%u3, %b3, %n2, %n2)
}
%whole (p7: f32[512,1024], p8: f32[1024], o: s32[]) -> f32[1024] {
  %p7 = f32[512,1024]{1,0} parameter(0)
  %p8 = f32[1024]{0} parameter(1)
  %o = s32[] parameter(2)
  %b4 = f32[1,1024]{1,0} bitcast(%p8)
  %u5 = f32[512,1024]{1,0} dynamic-update-slice(%p7, %b4, %o, %o)
  %zero1 = f32[] constant(0)
  ROOT %sum = f32[1024]{0} reduce(%u5, %zero1), dimensions={0}, to_apply=%again
}
%turn (s: (f32[1024])) -> (f32[1024]) {
  %s = (f32[1024]{0}) parameter(0)
  %g0 = f32[1024]{0} get-tuple-element(%s), index=0
  %sine = f32[1024]{0} sine(%g0)
  ROOT %t1 = (f32[1024]{0}) tuple(%sine)
}
%again (s1: (f32[1024])) -> pred[] {
  %s1 = (f32[1024]{0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}
ENTRY %main (table: f32[512,1024], x: f32[1024]) -> f32[1024] {
  %table = f32[512,1024]{1,0:T(8,128)} parameter(0)
  %x = f32[1024]{0:T(1024)} parameter(1)
  %k = s32[]{:S(2)} constant(3)
  LINE
}
"""


@pytest.mark.fast
@pytest.mark.parametrize(
    ("line", "arrays"),
    [
        ("%y = f32[1024]{0:T(1024)} sine(%x)", 2),
        ("%y = f32[1024]{0:T(1024)S(1)} sine(%x)", 1),
        ("%y = f32[1024]{0:T(1024)} bitcast(%x)", 0),
        # A copy to the chip's own memory reads once, and is free where it ends; one from there writes once.
        ("%c = (f32[1024]{0:S(1)}, f32[1024]{0}, u32[]{:S(2)}) copy-start(%x)", 1),
        ("%c = f32[1024]{0:S(1)} copy-done(%x)", 0),
        ("%v = f32[1024]{0:S(1)} sine(%x)\n  %c = (f32[1024]{0}, f32[1024]{0:S(1)}, u32[]{:S(2)}) copy-start(%v)", 2),
        ("%c = ((f32[512,1024]{1,0}), f32[2,1024]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%table), slice={[0:2]}", 2),
        ('%c = f32[2,1024]{1,0} custom-call(%x, /*index=1*/%x), custom_call_target="ConcatBitcast"', 0),
        # A row looked up, in the open or inside a fusion, and a row put in its place.
        ("%y = f32[1,1024]{1,0:S(1)} dynamic-slice(%table, %k, %k), dynamic_slice_sizes={1,1024}", 1),
        ("%y = f32[1024]{0:S(1)} fusion(%table, %k), kind=kLoop, calls=%rows", 1),
        ("%y = f32[1024]{0} fusion(%table, %k), kind=kLoop, calls=%rows", 2),
        ("%y = f32[512,1024]{1,0} dynamic-update-slice(%table, %x, %k, %k)", 2),
        # The row read twice counts once; written are the row in the table and its negative.
        ("%y = (f32[512,1024]{1,0}, f32[1024]{0}) fusion(%table, %x, %k), kind=kLoop, calls=%put", 3),
        ("%t = (f32[1024]{0}) tuple(%x)\n  %y = (f32[1024]{0}) while(%t), condition=%again, body=%turn", 2),
        ("%y = f32[512,1024]{1,0} scatter(%table, %k, %x), to_apply=%again", 2),
        # Written whole: zeros with a row in them. Two rows of a table, and the table's sum with a row replaced.
        ("%y = f32[512,1024]{1,0} fusion(%x, %k), kind=kLoop, calls=%padded", 513),
        ("%y = f32[512,1024]{1,0} fusion(%table, %x, %k, %k), kind=kLoop, calls=%two", 3),
        ("%y = f32[1024]{0} fusion(%table, %x, %k), kind=kLoop, calls=%whole", 514),
        ("%y = (f32[512,1024]{1,0}, f32[1024]{0}) scatter(%table, %x, %k, %x, %x), to_apply=%again", 3),
        ("%y = f32[1024]{0} multiply(%x, %x)", 2),
        ("%y = f32[1024]{0} opt-barrier(%x)", 0),
        ('%y = f32[1024]{0} custom-call(), custom_call_target="AllocateBuffer"', 0),
        ('%y = (f32[1024]{0}, u8[999]{0}) custom-call(%x), custom_call_target="__cudnn$convForward"', 2),
        ("%y = (f32[1024]{0}) conditional(%k, %t, %t), branch_computations={%turn, %turn, %again}", 2),
        ("%y = (f32[1024]{0}) call(%x), to_apply=%turn", 2),
        # What is begun gives back what goes in as well, which is not written.
        ("%y = ((f32[1024]{0}), f32[1024]{0}, s32[]{:S(2)}) async-start(%x), calls=%turn", 2),
        ("%y = ((f32[1024]{0}), f32[1024]{0}, s32[]{:S(2)}) fusion-start(%x), kind=kLoop, calls=%same", 2),
        ("%y = (f32[1024]{0}, f32[4096]{0}) all-gather-start(%x), channel_id=1", 5),
        ("%y = ((f32[1024]{0}, f32[1024]{0}), (f32[4096]{0}, f32[4096]{0})) all-gather-start(%x, %x)", 9),
        ("%y = (f32[1024]{0}, f32[256]{0}) reduce-scatter-start(%x), channel_id=1", 1.25),
        ("%y = f32[1024]{0} all-reduce-start(%x), channel_id=1, to_apply=%again", 2),
        # Of 64 neighbours a tile of 128 is stored.
        ("%y = f32[16,64]{1,0:T(8,128)} sine(%k)", 2),
        ("%y = f32[16,64]{0,1:T(8,128)} sine(%k)", 8),
        ("%y = f32[1024]{0} call(%x), to_apply=%put_nothing", None),
    ],
)
def test_main_memory_of_one_instruction(line, arrays):
    text = MOVED.replace("LINE", line)
    if arrays is None:  # a computation that is not there is no zero
        with pytest.raises(KeyError):
            traffic.main_memory(text)
    else:
        assert traffic.main_memory(text) == pytest.approx(4096 * arrays, abs=8)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("line", "waits", "kernels"),
    [
        ("%y = f32[1024]{0} sine(%x)", 0, 1),
        ("%y = f32[1024]{0} bitcast(%x)", 0, 0),
        ("%t = (f32[1024]{0}) tuple(%x)\n  %y = (f32[1024]{0}) while(%t), condition=%again, body=%turn", 1, 1),
        (
            "%t = (f32[1024]{0}) tuple(%x)\n  %y = (f32[1024]{0}) while(%t), condition=%again, body=%turn, "
            'backend_config={"known_trip_count":{"n":"20"}}',
            0,
            1,
        ),
        ("%y = (f32[1024]{0}) conditional(%k, %t, %t), branch_computations={%turn, %turn}", 1, 2),
        ("%y = (f32[1024]{0:S(5)}, f32[1024]{0}, u32[]) copy-start(%x)\n  %z = f32[1024]{0:S(5)} copy-done(%y)", 1, 1),
        ("%h = f32[1024]{0:S(5)} parameter(2)\n  %y = f32[1024]{0} copy(%h)", 1, 1),
        ("%y = (f32[1024]{0}, u32[], token[]) send(%x, %k), channel_id=1, is_host_transfer=true", 1, 1),
        ("%y = (f32[1024]{0}, u32[], token[]) send(%x, %k), channel_id=1", 0, 1),
        ('%y = f32[1024]{0} sine(%x), metadata={op_name="callback"}', 0, 1),
        ('%y = f32[1024]{0} custom-call(%x), custom_call_target="xla_ffi_python_gpu_callback"', 1, 1),
        ('%y = f32[1024]{0} custom-call(%x), custom_call_target="__cudnn$convForward"', 0, 1),
    ],
)
def test_what_a_gpu_waits_for_and_starts(line, waits, kernels):
    text = MOVED.replace("LINE", line)
    assert (len(hlo.host_waits(text)), hlo.kernels(text)) == (waits, kernels)


def test_main_memory_is_what_the_compiler_counts_where_there_is_no_other():
    x, w = jnp.zeros((256, 512)), jnp.zeros((512, 512))
    compiled = jax.jit(lambda x, w: jnp.maximum(x @ w, 0).sum(0)).lower(x, w).compile()
    assert traffic.main_memory(compiled.as_text()) == compiled.cost_analysis()["bytes accessed"]


UPDATES = """
import jax, jax.numpy as jnp
from ssl_jax.plan import chips, traffic
place = jax.sharding.SingleDeviceSharding(chips.find_devices("v5e:1x1")[0])
shaped = lambda shape, kind=jnp.float32: jax.ShapeDtypeStruct(shape, kind, sharding=place)

def moved(function, *given, donate=()):
    program = jax.jit(function, donate_argnums=donate).trace(*given).lower(lowering_platforms=("tpu",)).compile()
    print(traffic.main_memory(program.as_text()), program.cost_analysis()["bytes accessed"])

def sgd(p, m, g):
    m = 0.9 * m + g
    return p - 0.1 * m, m

for layers in ([shaped((512, 512))] * 20, [shaped((8192, 8192))]):
    moved(lambda p, m, g: jax.tree.map(sgd, p, m, g), layers, layers, layers, donate=(0, 1))
moved(lambda x, i: x[i].astype(jnp.float32).mean(-1), shaped((50000, 3072), jnp.uint8), shaped((512,), jnp.int32))
"""


def test_main_memory_on_a_tpu():
    """SGD with momentum passes five times over its parameters, small or large; rows are taken without the others."""
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    done = subprocess.run([sys.executable, "-c", UPDATES], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    small, big, rows = (tuple(map(float, line.split())) for line in done.stdout.splitlines())
    np.testing.assert_allclose(small[0], 5 * 20 * 512 * 512 * 4, rtol=0.001)
    np.testing.assert_allclose(big, 5 * 8192 * 8192 * 4, rtol=0.001)
    np.testing.assert_allclose(rows[0], 512 * 3072, rtol=0.01)
